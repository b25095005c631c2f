"""Who splits traffic where our gateway is not in the path: an HTTPRoute's weights, or a Service's selector.

Everything is absolute, in an order that leaves no request without an answer: Services lead to ready pods before they have a
weight. Nothing is remembered here: what is served is read from the cluster each time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

from adapters.kubernetes import http_route, objects
from adapters.kubernetes.cluster import Cluster
from adapters.kubernetes.http_route import Split, header_of
from adapters.kubernetes.selectors import LOOK_S, Selectors
from adapters.ports import Observed
from adapters.routing import TrackRule
from state.words import AirbossError, Conflict, OperationFailed, Track, Unreachable

CONFIRM_S = 30.0
TRIES = 4
Route = Mapping[str, Any]
"""A route as the local router's table has it: `backends` with track, release_id and weight; `routing`."""


class KubeRouter:
    """Splits the traffic of one environment's services in its cluster."""

    def __init__(self, cluster: Cluster, *, confirm_s: float = CONFIRM_S) -> None:
        self.cluster = cluster
        self.confirm_s = confirm_s
        self.selectors = Selectors(cluster, confirm_s)
        self._settled: dict[str, Route] = {}

    async def settle(self, routes: Sequence[Route], service: str = "") -> None:
        """Have what `routes` say of `service` (in any case) or of all services (where it is new). Raises what a write raises."""
        for route in routes:
            name = route["service"]
            if route["env"] != self.cluster.env or service not in ("", name):
                continue
            meant = {"backends": _meant(route), "routing": route.get("routing") or {}}
            if service or self._settled.get(name) != meant:
                self._settled.pop(name, None)
                await self._put(name, meant)
                self._settled[name] = meant

    async def _put(self, service: str, meant: Route) -> None:
        if self.cluster.target.traffic == "service":
            await self.selectors.switch(service, meant)
            return
        for backend in meant["backends"]:
            is_served = bool(backend["weight"]) or backend["track"] == Track.SHADOW
            name = objects.track_service(service, backend["track"])
            await self.selectors.lead(service, name, self.selectors.hash_of(service, backend), confirmed=is_served)
        await self._weigh(service, split_of(meant))

    async def _weigh(self, service: str, split: Split) -> None:
        cluster, name = self.cluster, self.route_name(service)
        path, port = cluster.path("httproutes", name), cluster.pods_of(service).port
        for attempt in range(TRIES):
            route = await cluster.client.get(path)
            if route is None:
                await self._make_route(service, name, split)
                break
            may_add = cluster.target.ownership == "full"
            rules = http_route.rules_of(route["spec"].get("rules") or [], service, port, split, may_add=may_add)
            operations = http_route.patch_of(route, rules)
            cluster.routes[service] = rules
            if not operations:
                break
            cluster.demand_ownership("weights", f"HTTPRoute {name} cannot be given other weights")
            try:
                await cluster.client.patch(path, cluster.fenced(route, operations))
                break
            except Conflict:
                # Somebody else wrote it between our look and our patch: look again.
                if attempt == TRIES - 1:
                    raise
        await self._confirm_route(path, name)

    async def _make_route(self, service: str, name: str, split: Split) -> None:
        cluster = self.cluster
        cluster.demand_ownership("full", f"HTTPRoute {name} cannot be made")
        if not cluster.target.gateway:
            raise OperationFailed(
                f"there is no HTTPRoute {name} in {cluster.namespace}, and no gateway to make one for",
                hint='targets.gateway = "NAMESPACE/NAME" lets us make it; targets.route names one that is there',
            )
        rules = http_route.first_rule(service, cluster.pods_of(service).port, split)
        made = objects.http_route(
            name, service, cluster.env, rules, cluster.target.gateway, cluster.target.hostnames, cluster.namespace,
            cluster.author,
        )  # fmt: skip
        await cluster.client.create(cluster.path("httproutes"), made)
        cluster.routes[service] = rules

    async def _confirm_route(self, path: str, name: str) -> None:
        """Wait until every gateway has accepted the route as it is now and found what it leads to."""
        until = time.monotonic() + self.confirm_s
        while True:
            route = await self.cluster.client.get(path)
            trouble = http_route.trouble_of(route) if route else "it is gone"
            if trouble == "":
                return
            if time.monotonic() > until:
                raise Unreachable(
                    f"HTTPRoute {name} is not in force after {self.confirm_s:g} s: {trouble or 'no gateway has said so'}",
                    hint="it is tried again; its status has the gateway's own words",
                )
            await asyncio.sleep(LOOK_S)

    async def observe(self, service: str) -> Observed | None:
        """The split as the cluster serves it; None when it does not answer, or its gateways have not taken it over."""
        cluster = self.cluster
        try:
            if cluster.target.traffic == "service":
                return await self.selectors.observe(service)
            route = await cluster.client.get(cluster.path("httproutes", self.route_name(service)))
            if route is None:
                return Observed({})
            cluster.routes[service] = route["spec"].get("rules") or []
            split = http_route.read(route["spec"].get("rules") or [], service)
            if split is None or http_route.trouble_of(route) != "":
                return None
            tracks = (*split.weights, *([Track.SHADOW] if split.mirror_pct else []))
            found = await asyncio.gather(
                *(cluster.client.get(cluster.path("services", objects.track_service(service, t))) for t in tracks)
            )
            return self._in_releases({str(t): s for t, s in zip(tracks, found, strict=True) if s}, split)
        except AirbossError:
            return None

    def _in_releases(self, services: Mapping[str, Any], split: Split) -> Observed:
        of = {track: self.selectors.release_of(one) for track, one in services.items()}
        if missing := set(split.weights) - set(of):
            raise OperationFailed(f"no Service for {', '.join(sorted(missing))}")
        weights: dict[str, int] = {}
        for track, weight in split.weights.items():
            weights[of[track]] = weights.get(of[track], 0) + weight
        return Observed(
            weights,
            shadow=of.get(Track.SHADOW),
            mirror_pct=split.mirror_pct,
            canary_rules=tuple(
                TrackRule(track=Track.CANARY, header=name, equals=value, at_zero=True) for name, value in split.headers
            ),
            baseline_weight=split.weights.get(Track.BASELINE, 0),
        )

    def route_name(self, service: str) -> str:
        """The HTTPRoute of the service."""
        return self.cluster.target.route or service


def split_of(meant: Route) -> Split:
    """What the table's route means for an HTTPRoute."""
    routing = meant["routing"]
    headers = [header_of(TrackRule(**rule)) for rule in routing.get("rules") or ()]
    has_shadow = any(b["track"] == Track.SHADOW for b in meant["backends"])
    return Split(
        weights={b["track"]: b["weight"] for b in meant["backends"] if b["track"] != Track.SHADOW},
        mirror_pct=round((routing.get("mirror") or {}).get("share", 0)) if has_shadow else 0,
        headers=tuple(one for one in headers if one is not None),
    )


def _meant(route: Route) -> list[dict[str, Any]]:
    """The backends without their replicas, which come and go."""
    return [{k: b[k] for k in ("track", "release_id", "weight")} for b in route["backends"]]
