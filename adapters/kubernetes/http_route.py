"""An HTTPRoute's rules: what a split is there, what it becomes, and the JSON patch that leads from one to the other. Pure."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adapters.kubernetes.objects import track_service
from adapters.routing import TrackRule
from state.words import OperationFailed, Track

Object = dict[str, Any]
RULE_PREFIX = "airboss-ab-"
WEIGHED = (Track.STABLE, Track.CANARY, Track.BASELINE)


@dataclass(frozen=True, slots=True)
class Split:
    """What a service's route shall do: track → percent, and the rollout's own rules and copies."""

    weights: Mapping[str, int]
    mirror_pct: int = 0
    headers: tuple[tuple[str, str], ...] = field(default=())
    """(name, value) of headers whose requests go to the canary."""


def rules_of(rules: Sequence[Object], service: str, port: int, split: Split, *, may_add: bool) -> list[Object]:
    """`rules` with the split in every rule that names the service's stable track. Raises OperationFailed when none does."""
    kept = [copy.deepcopy(rule) for rule in rules if not str(rule.get("name", "")).startswith(RULE_PREFIX)]
    ours = [rule for rule in kept if is_ours(rule, service)]
    if not ours:
        raise OperationFailed(
            f"no rule of the HTTPRoute names the Service {track_service(service, Track.STABLE)}",
            hint="let a rule of it have that backend, or name another with targets.route",
        )
    for rule in ours:
        _weigh(rule, service, port, split, may_add)
        _mirror(rule, service, port, split.mirror_pct)
    led = [_led(rule, service, port, split.headers, at) for at, rule in enumerate(ours)] if split.headers else []
    return [*(rule for rules in led for rule in rules), *kept]


def first_rule(service: str, port: int, split: Split) -> list[Object]:
    """The rules of a route that is made: everything goes to the service."""
    stable = _backend(track_service(service, Track.STABLE), port, 1)
    return rules_of([{"name": "airboss", "backendRefs": [stable]}], service, port, split, may_add=True)


def is_ours(rule: Mapping[str, Any], service: str) -> bool:
    """The rule leads to the service's stable track."""
    return any(ref["name"] == track_service(service, Track.STABLE) for ref in rule.get("backendRefs") or ())


def read(rules: Sequence[Object], service: str) -> Split | None:
    """The split that all rules of the service have; None when there is none, or they differ."""
    seen: list[tuple[dict[str, int], int]] = []
    headers: list[tuple[str, str]] = []
    for rule in rules:
        if str(rule.get("name", "")).startswith(RULE_PREFIX):
            if any(ref["name"] == track_service(service, Track.CANARY) for ref in rule.get("backendRefs") or ()):
                headers += [
                    (h["name"], h["value"]) for match in rule.get("matches") or () for h in match.get("headers") or ()
                ]
        elif is_ours(rule, service):
            seen.append((_weights(rule, service), _mirrored(rule, service)))
    if not seen or any(one != seen[0] for one in seen):
        return None
    return Split(seen[0][0], seen[0][1], tuple(dict.fromkeys(headers)))


def patch_of(before: Object, rules: Sequence[Object]) -> list[Object]:
    """The operations that make the route's rules `rules`: nothing is replaced that has not been tested to be what we saw."""
    known = before["spec"].get("rules") or []
    operations: list[Object] = [
        {"op": "test", "path": "/metadata/resourceVersion", "value": before["metadata"]["resourceVersion"]}
    ]
    if [_shape(rule) for rule in known] != [_shape(rule) for rule in rules]:
        return [*operations, {"op": "replace", "path": "/spec/rules", "value": list(rules)}]
    for at, (old, new) in enumerate(zip(known, rules, strict=True)):
        changed = [
            (i, ref) for i, ref in enumerate(new.get("backendRefs") or ())
            if ref.get("weight", 1) != old["backendRefs"][i].get("weight", 1)
        ]  # fmt: skip
        for i, ref in changed:
            place = f"/spec/rules/{at}/backendRefs/{i}"
            operations.append({"op": "test", "path": f"{place}/name", "value": ref["name"]})
        for i, ref in changed:
            operations.append({"op": "add", "path": f"/spec/rules/{at}/backendRefs/{i}/weight", "value": ref["weight"]})
    return operations if len(operations) > 1 else []


def trouble_of(route: Mapping[str, Any]) -> str | None:
    """Why the route as it is now is not in force at every gateway; "" when it is, None when they have not said yet."""
    generation = route["metadata"].get("generation", 0)
    parents = route.get("status", {}).get("parents") or []
    if not parents:
        return None
    for parent in parents:
        conditions = {c["type"]: c for c in parent.get("conditions") or ()}
        for kind in ("Accepted", "ResolvedRefs"):
            one = conditions.get(kind)
            if one is None or int(one.get("observedGeneration", 0)) < generation:
                return None
            if one["status"] != "True":
                name = parent.get("parentRef", {}).get("name", "?")
                return f"gateway {name}: {kind} is {one['status']}: {one.get('reason', '')} {one.get('message', '')}"
    return ""


def _weigh(rule: Object, service: str, port: int, split: Split, may_add: bool) -> None:
    refs = {ref["name"]: ref for ref in rule["backendRefs"]}
    for track in WEIGHED:
        name, weight = track_service(service, track), split.weights.get(track, 0)
        if name in refs:
            refs[name]["weight"] = weight
        elif weight:
            if not may_add:
                raise OperationFailed(
                    f"the HTTPRoute's rule {rule.get('name', '')!r} has no backend {name}",
                    hint=f'put {name} there with weight 0 in Git, or let us: ownership = "full"',
                )
            rule["backendRefs"].append(_backend(name, port, weight))


def _mirror(rule: Object, service: str, port: int, percent: int) -> None:
    shadow = track_service(service, Track.SHADOW)
    filters = [f for f in rule.get("filters") or () if not _copies_to(f, shadow)]
    if percent:
        copied = {"backendRef": {"name": shadow, "port": port}, "percent": percent}
        filters.append({"type": "RequestMirror", "requestMirror": copied})
    rule.pop("filters", None)
    if filters:
        rule["filters"] = filters


def _led(rule: Object, service: str, port: int, headers: Sequence[tuple[str, str]], at: int) -> list[Object]:
    """The rule again for each header, to the canary alone: a rule of a route with such a header is more specific and wins."""
    led = []
    for number, (name, value) in enumerate(headers):
        one = copy.deepcopy(rule)
        one["name"] = f"{RULE_PREFIX}{at}-{number}"
        match = {"type": "Exact", "name": name, "value": value}
        one["matches"] = [{**m, "headers": [*m.get("headers", []), match]} for m in rule.get("matches") or [{}]]
        one["backendRefs"] = [_backend(track_service(service, Track.CANARY), port, 1)]
        _mirror(one, service, port, 0)
        led.append(one)
    return led


def _weights(rule: Mapping[str, Any], service: str) -> dict[str, int]:
    names = {track_service(service, track): track.value for track in WEIGHED}
    found = {
        names[ref["name"]]: int(ref.get("weight", 1)) for ref in rule.get("backendRefs") or () if ref["name"] in names
    }
    total = sum(found.values())
    return {track: round(100 * weight / total) for track, weight in found.items() if weight} if total else {}


def _mirrored(rule: Mapping[str, Any], service: str) -> int:
    shadow = track_service(service, Track.SHADOW)
    return next(
        (int(f["requestMirror"].get("percent", 100)) for f in rule.get("filters") or () if _copies_to(f, shadow)), 0
    )


def _copies_to(one: Mapping[str, Any], shadow: str) -> bool:
    return bool(one["type"] == "RequestMirror" and one["requestMirror"]["backendRef"]["name"] == shadow)


def _backend(name: str, port: int, weight: int) -> Object:
    return {"group": "", "kind": "Service", "name": name, "port": port, "weight": weight}


def _shape(rule: Mapping[str, Any]) -> Object:
    """A rule without the weights in it."""
    refs = [{k: v for k, v in ref.items() if k != "weight"} for ref in rule.get("backendRefs") or ()]
    return {**rule, "backendRefs": refs}


def header_of(rule: TrackRule) -> tuple[str, str] | None:
    """A rule as an exact header, which all gateways can match; None for any other."""
    return (rule.header, rule.equals) if rule.header and rule.equals is not None else None
