"""A rollout's route as the router takes it, and what the router reads back as the machine wants it. Pure."""

from __future__ import annotations

from adapters.ports import Backend, Observed, Route
from adapters.routing import Mirror, Routing, Split, TrackRule
from engine.rollouts import effects as fx
from state.config import Service
from state.policy_config import split_match
from state.words import Track


def route_of(effect: fx.Route, *, service: str, env: str, target: str, rollout_id: str, settings: Service) -> Route:
    """The whole route that the effect means."""
    extras = effect.extras
    backends = []
    if effect.stable is not None:
        rest = 100 - effect.canary_weight - extras.baseline_weight
        backends.append(Backend(Track.STABLE, effect.stable, rest, ()))
        if extras.baseline_weight:
            backends.append(Backend(Track.BASELINE, effect.stable, extras.baseline_weight, ()))
    if effect.canary is not None:
        backends.append(Backend(Track.CANARY, effect.canary, effect.canary_weight, ()))
    if extras.shadow is not None:
        backends.append(Backend(Track.SHADOW, extras.shadow, 0, ()))
    return Route(
        service=service,
        env=env,
        target=target,
        rollout_id=rollout_id,
        backends=tuple(backends),
        slow_ms=settings.slo.latency_p95_ms,
        deadline_s=settings.deadline,
        routing=_routing(extras),
    )


def _routing(extras: fx.Extras) -> Routing | None:
    if extras.reaches_nobody and not extras.affinity:
        return None
    by, _, name = extras.affinity.partition(" ")
    split = Split(by="hash", **({by: name} if name else {})) if extras.affinity else Split()
    rules = tuple(rule_of(text) for text in extras.rules)
    return Routing(rules=rules, split=split, mirror=Mirror(share=float(extras.mirror_pct)))


def rule_of(text: str) -> TrackRule:
    """`header x-beta=1`, `cookie team` → the rule that leads such requests to the canary, whatever its weight."""
    kind, _, match = text.partition(" ")
    name, value = split_match(match)
    present = True if value is None else None
    named = {"header": name} if kind == "header" else {"cookie": name}
    return TrackRule(track=Track.CANARY, equals=value, present=present, at_zero=True, **named)


def extras_of(seen: Observed) -> fx.Extras:
    """What a route was read back to have beyond its weights."""
    return fx.Extras(
        shadow=seen.shadow,
        mirror_pct=seen.mirror_pct,
        rules=tuple(text_of(rule) for rule in seen.canary_rules),
        baseline_weight=seen.baseline_weight,
    )


def text_of(rule: TrackRule) -> str:
    """A rule as `rule_of` reads it; one that it could not have made is told apart by its pattern."""
    named = f"header {rule.header}" if rule.header else f"cookie {rule.cookie}"
    if rule.equals is not None:
        return f"{named}={rule.equals}"
    return named if rule.present else f"{named}~{rule.matches}"
