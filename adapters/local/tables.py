"""A routing table as this host's router makes and reads it: what a rollout adds to a route, and what a worker's table says. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from adapters.ports import Observed, Route
from adapters.routing import PLAIN, TrackRule
from state.words import Track


def split_of(route: Mapping[str, Any]) -> dict[str, int]:
    """Release → percent of a route, those above 0. A baseline is the stable release's: one release, two tracks."""
    weights: dict[str, int] = {}
    for backend in route["backends"]:
        if int(backend["weight"]):
            weights[backend["release_id"]] = weights.get(backend["release_id"], 0) + int(backend["weight"])
    return weights


def role_of(track: str) -> str:
    """The role of the replicas that a track is served by: a baseline has copies of its own."""
    return Track.BASELINE.value if track == Track.BASELINE else ""


def merged_routing(own: Mapping[str, Any], added: Mapping[str, Any]) -> dict[str, Any]:
    """The service's own routing with what a rollout adds: its rules first, its share of copies, its split."""
    merged = {**own}
    if rules := (*added.get("rules", ()), *own.get("rules", ())):
        merged["rules"] = list(rules)
    if mirror := added.get("mirror"):
        merged["mirror"] = {**own.get("mirror", {}), "share": mirror["share"]}
    if split := added.get("split"):
        merged["split"] = split
    return merged


def added_routing(route: Route) -> dict[str, Any]:
    """What a rollout adds to the route, as the row of its stable track keeps it."""
    if route.routing is None:
        return {}
    said = asdict(route.routing)
    plain = asdict(PLAIN)
    return {name: said[name] for name in ("rules", "mirror", "split") if said[name] != plain[name]}


def observed(table: Mapping[str, Any], service: str, env: str) -> Observed:
    """What one worker's table says of a route."""
    route = next((r for r in table.get("routes", ()) if (r["service"], r["env"]) == (service, env)), None)
    if route is None:
        return Observed({})
    tracks = {backend["track"]: backend for backend in route["backends"]}
    routing = route.get("routing") or {}
    shadow = tracks.get(Track.SHADOW)
    rules = [TrackRule(**rule) for rule in routing.get("rules", ())] if Track.CANARY in tracks else []
    return Observed(
        weights=split_of(route),
        shadow=shadow["release_id"] if shadow else None,
        mirror_pct=int((routing.get("mirror") or {}).get("share", 0)) if shadow else 0,
        canary_rules=tuple(rule for rule in rules if rule.track == Track.CANARY),
        baseline_weight=int(tracks[Track.BASELINE]["weight"]) if Track.BASELINE in tracks else 0,
    )
