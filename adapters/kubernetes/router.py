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
from adapters.kubernetes.pods import release_of_hash
from adapters.local.tables import role_of
from adapters.ports import Observed
from adapters.routing import TrackRule
from state.words import AirbossError, Conflict, OperationFailed, Track, Unreachable

CONFIRM_S = 30.0
LOOK_S = 0.3
TRIES = 4
Route = Mapping[str, Any]
"""A route as the local router's table has it: `backends` with track, release_id and weight; `routing`."""


class KubeRouter:
    """Splits the traffic of one environment's services in its cluster."""

    def __init__(self, cluster: Cluster, *, confirm_s: float = CONFIRM_S) -> None:
        self.cluster = cluster
        self.confirm_s = confirm_s
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
            await self._select(
                service, objects.track_service(service, "entry"), self._whole(service, meant), confirmed=True
            )
            return
        for backend in meant["backends"]:
            is_served = bool(backend["weight"]) or backend["track"] == Track.SHADOW
            name = objects.track_service(service, backend["track"])
            await self._select(service, name, self._hash(service, backend), confirmed=is_served)
        await self._weigh(service, split_of(meant))

    def _whole(self, service: str, meant: Route) -> str:
        served = [b for b in meant["backends"] if b["weight"]]
        if len(served) != 1:
            raise OperationFailed(
                'a Service\'s selector cannot split traffic (targets.traffic = "service")',
                hint='use blue-green, or traffic = "httproute" or "gateway"',
            )
        return self._hash(service, served[0])

    def _hash(self, service: str, backend: Mapping[str, Any]) -> str:
        """The pod-hash of the release, from the Deployment that is there."""
        role = role_of(backend["track"])
        for one in self.cluster.deployments.objects.values():
            labels = one["metadata"].get("labels") or {}
            if (
                labels.get(objects.NAME) == service
                and labels.get(objects.RELEASE) == backend["release_id"]
                and labels.get(objects.ROLE, "") == role
            ):
                return str(labels[objects.HASH])
        raise OperationFailed(
            f"there is no Deployment of {backend['release_id']} in {self.cluster.namespace}",
            hint="it is made when the release is prepared; `airboss status` says what hinders that",
        )

    async def _select(self, service: str, name: str, pod_hash: str, *, confirmed: bool) -> None:
        """Have the Service lead to the pods of `pod_hash`, and to no other; `confirmed`: and some of them answer."""
        cluster, port = self.cluster, self.cluster.pods_of(service).port
        selector = {objects.HASH: pod_hash}
        there = await cluster.client.get(cluster.path("services", name))
        if there is None:
            cluster.demand_ownership("full", f"Service {name} cannot be made")
            wanted = objects.service(name, service, cluster.env, selector, port, cluster.namespace, cluster.author)
            await cluster.client.apply(cluster.path("services", name), wanted)
        elif there["spec"].get("selector") != selector:
            cluster.demand_ownership("weights", f"Service {name} cannot be made to lead to {pod_hash}")
            await cluster.client.patch(
                cluster.path("services", name),
                [
                    {"op": "test", "path": "/metadata/resourceVersion", "value": there["metadata"]["resourceVersion"]},
                    {"op": "add", "path": "/spec/selector", "value": selector},
                ],
            )
        if confirmed:
            await self._confirm_endpoints(name, pod_hash)

    async def _confirm_endpoints(self, name: str, pod_hash: str) -> None:
        """Wait until the Service's EndpointSlices hold ready pods of `pod_hash` and none of another's."""
        cluster, until = self.cluster, time.monotonic() + self.confirm_s
        while True:
            pods, _ = await cluster.client.list(cluster.path("pods"), f"{objects.HASH}={pod_hash}")
            own = {pod["metadata"]["name"] for pod in pods}
            slices, _ = await cluster.client.list(cluster.path("endpointslices"), f"kubernetes.io/service-name={name}")
            ready = [
                (endpoint.get("targetRef") or {}).get("name", "")
                for one in slices for endpoint in one.get("endpoints") or ()
                if (endpoint.get("conditions") or {}).get("ready", True)
            ]  # fmt: skip
            if ready and own.issuperset(ready):
                return
            if time.monotonic() > until:
                foreign = sorted(set(ready) - own)
                raise Unreachable(
                    f"Service {name} does not lead to ready pods of {pod_hash} after {self.confirm_s:g} s"
                    + (f": it has {', '.join(foreign)}" if foreign else ""),
                    hint="it is tried again; `kubectl get endpointslices` shows what it leads to",
                )
            await asyncio.sleep(LOOK_S)

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
            if not operations:
                break
            cluster.demand_ownership("weights", f"HTTPRoute {name} cannot be given other weights")
            try:
                await cluster.client.patch(path, operations)
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
                entry = await cluster.client.get(cluster.path("services", objects.track_service(service, "entry")))
                weights = {"": 100} if entry else {}
                return await self._in_releases({"": entry} if entry else {}, Split(weights))
            route = await cluster.client.get(cluster.path("httproutes", self.route_name(service)))
            if route is None:
                return Observed({})
            split = http_route.read(route["spec"].get("rules") or [], service)
            if split is None or http_route.trouble_of(route) != "":
                return None
            tracks = (*split.weights, *([Track.SHADOW] if split.mirror_pct else []))
            found = await asyncio.gather(
                *(cluster.client.get(cluster.path("services", objects.track_service(service, t))) for t in tracks)
            )
            return await self._in_releases({str(t): s for t, s in zip(tracks, found, strict=True) if s}, split)
        except AirbossError:
            return None

    async def _in_releases(self, services: Mapping[str, Any], split: Split) -> Observed | None:
        releases = release_of_hash(self.cluster.deployments.objects.values())
        of = {
            track: releases.get((one["spec"].get("selector") or {}).get(objects.HASH, ""), "?")
            for track, one in services.items()
        }
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
