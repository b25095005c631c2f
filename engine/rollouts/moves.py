"""What every part of a rollout's life is made of: the kinds of move, the weights it wants, and moving by a verdict. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from engine.rollouts.effects import Effect, Extras, Route, Scale
from engine.rollouts.values import Facts, Move, RolloutNow
from engine.rollouts.wording import duration
from state.words import PauseReason, RolloutState, VerdictKind

_S = RolloutState


def stay(r: RolloutNow, *effects: Effect, message: str = "") -> Move:
    """Stand where it stands; `effects` are wanted still."""
    return Move(r.state, r.step, effects, message, r.pause_reason, r.resume_state)


def to(r: RolloutNow, state: RolloutState, message: str, *, step: int | None = None, consumes: bool = False) -> Move:
    """Go on to `state`, perhaps to another step; `consumes` uses the step's PASS up."""
    return Move(state, r.step if step is None else step, (), message, consumes_verdict=consumes)


def pause(r: RolloutNow, reason: PauseReason, message: str) -> Move:
    """Stand still until a person decides; what it was doing is kept."""
    return Move(_S.PAUSED, r.step, (), message, reason.value, r.state)


def waited_too_long(r: RolloutNow, f: Facts, name: str, ready: int, needed: int) -> Move | None:
    """The pause when replicas that had answered are gone and did not come back in time; None while there is time.

    That is about room for them, never a FAIL of the release (DESIGN §6): until they answer its users are stable's.
    """
    if f.state_s <= r.prepare_timeout_s:
        return None
    return pause(
        r,
        PauseReason.CAPACITY,
        f"{ready} of {needed} replica(s) of {name} answer, and no more came within {duration(r.prepare_timeout_s)}; "
        "they had answered before, so it is about room for them and no verdict on the release",
    )


def roll_back(r: RolloutNow, message: str) -> Move:
    """Begin the way back; from here on it only continues."""
    return Move(_S.ROLLING_BACK, r.step, (), message)


def wanted_route(r: RolloutNow) -> Route:
    """The whole route that the step reached asks for."""
    stable, weight = r.from_release, r.weight
    if stable is None or weight >= 100:
        return Route(stable=stable, canary=r.to_release, canary_weight=weight, extras=Extras(affinity=r.affinity))
    extras = Extras(
        shadow=r.to_release if r.mirror_pct else None,
        mirror_pct=r.mirror_pct,
        rules=r.rules,
        baseline_weight=r.baseline_weight,
        affinity=r.affinity,
    )
    canary = r.to_release if weight or r.rules else None
    return Route(stable=stable, canary=canary, canary_weight=weight, extras=extras)


def wanted_weights(r: RolloutNow) -> dict[str, int]:
    """release → percent that the newest weight step asks for."""
    if r.from_release is None or r.weight >= 100:
        return {r.to_release: 100}
    both = {r.to_release: r.weight, r.from_release: 100 - r.weight}
    return {release: weight for release, weight in both.items() if weight}


def reads(f: Facts, wanted: Mapping[str, int]) -> bool:
    """Every worker has exactly the `wanted` weights."""
    return f.weights is not None and {k: v for k, v in f.weights.items() if v} == dict(wanted)


def is_routed(r: RolloutNow, f: Facts) -> bool:
    """Every worker has the route that the step reached asks for."""
    return reads(f, wanted_weights(r)) and f.extras.covers(wanted_route(r).extras)


def is_meant(r: RolloutNow, f: Facts) -> bool:
    """The tracks say so too: a route that only a foreign hand has set is gone with the next table."""
    return f.tracks is None or {k: v for k, v in f.tracks.items() if v} == wanted_weights(r)


def keep_route(r: RolloutNow, f: Facts) -> tuple[Effect, ...]:
    """A route that reads back other than meant is set again (a gateway that lost it was restarted); room that was given
    away stays so. A release that cannot answer gets no more than it has (I5)."""
    room: tuple[Effect, ...] = ()
    is_there = f.canary.ready >= r.steps[r.step].replicas
    if r.replaces and is_there and r.from_release is not None and f.stable.alive > r.left_after:
        room = (Scale(r.from_release, r.left_after),)
    if f.weights is None or is_routed(r, f):
        return room
    if f.canary.ready < 1 and r.weight > f.weights.get(r.to_release, 0):
        return room
    return (wanted_route(r), *room)


def fails(r: RolloutNow, f: Facts) -> Move | None:
    """The move a FAIL asks for: back, or a pause where there is nothing to go back to. None without a FAIL."""
    verdict = f.verdict
    if verdict is not None and verdict.kind is VerdictKind.FAIL:
        if r.from_release is None:
            return pause(r, PauseReason.SLO, f"{verdict.sentence} There is no earlier release to return to.")
        return roll_back(r, verdict.sentence)
    return None


def judged(r: RolloutNow, f: Facts, passed: Move) -> Move:
    """Move by the verdict: I8, absence of data can only pause; `hold` stops automatic movement either way."""
    verdict = f.verdict
    if verdict is None or f.is_held:
        return stay(r, *keep_route(r, f))
    failed = fails(r, f)
    if failed:
        return failed
    if verdict.common_mode:
        return pause(r, PauseReason.SLO, verdict.sentence)
    if verdict.kind is VerdictKind.PASS:
        if f.is_frozen:
            return pause(r, PauseReason.FREEZE, f"passed, and a freeze holds it: {verdict.sentence}")
        return replace(passed, message=verdict.sentence)
    if verdict.kind is VerdictKind.NO_DATA:
        return pause(r, PauseReason.NO_DATA, verdict.sentence)
    if verdict.expired:
        return pause(r, PauseReason.INCONCLUSIVE, verdict.sentence)
    return stay(r, *keep_route(r, f))
