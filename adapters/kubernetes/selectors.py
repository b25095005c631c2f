"""Services whose selector leads to one release's pods: each track's, and the entry and the preview of a blue-green without a gateway.

A Service counts once its EndpointSlices hold ready pods of the release and none of another's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from adapters.kubernetes import objects
from adapters.kubernetes.cluster import Cluster
from adapters.kubernetes.pods import release_of_hash
from adapters.local.tables import role_of
from adapters.ports import Observed
from adapters.routing import PREVIEW_HEADER, TrackRule
from state.words import OperationFailed, Track, Unreachable

LOOK_S = 0.3
ENTRY, PREVIEW = "entry", "preview"


class Selectors:
    """The Services of one environment."""

    def __init__(self, cluster: Cluster, confirm_s: float) -> None:
        self.cluster, self.confirm_s = cluster, confirm_s

    async def switch(self, service: str, meant: Mapping[str, Any]) -> None:
        """Have the entry lead to the one release that has all traffic, and the preview to the one that is shown before it has any."""
        served = [b for b in meant["backends"] if b["weight"]]
        if len(served) != 1:
            raise OperationFailed(
                'a Service\'s selector cannot split traffic (targets.traffic = "service")',
                hint='use blue-green, or traffic = "httproute" or "gateway"',
            )
        entry = self.hash_of(service, served[0])
        await self.lead(service, objects.track_service(service, ENTRY), entry, confirmed=True)
        shown = self._shown(meant)
        preview = objects.track_service(service, PREVIEW)
        if shown is not None:
            await self.lead(service, preview, self.hash_of(service, shown), confirmed=True)
        elif await self.cluster.client.get(self.cluster.path("services", preview)) is not None:
            # Nothing is shown any more: whoever still asks there gets what everybody gets.
            await self.lead(service, preview, entry, confirmed=False)

    def _shown(self, meant: Mapping[str, Any]) -> Mapping[str, Any] | None:
        rules = meant["routing"].get("rules") or ()
        if not any(rule.get("header") == PREVIEW_HEADER for rule in rules):
            return None
        return next((b for b in meant["backends"] if b["track"] == Track.CANARY), None)

    async def observe(self, service: str) -> Observed:
        """What the entry leads to, and what the preview shows beside it."""
        cluster = self.cluster
        entry, preview = await asyncio.gather(
            *(cluster.client.get(cluster.path("services", objects.track_service(service, n))) for n in (ENTRY, PREVIEW))
        )
        if entry is None:
            return Observed({})
        live = self.release_of(entry)
        shown = self.release_of(preview) if preview is not None else live
        rule = TrackRule(track=Track.CANARY, header=PREVIEW_HEADER, equals=shown, at_zero=True)
        return Observed({live: 100}, canary_rules=(rule,) if shown != live else ())

    def release_of(self, service: Mapping[str, Any]) -> str:
        """The release that a Service's selector names; "?" for a selector that is not ours."""
        releases = release_of_hash(self.cluster.deployments.objects.values())
        return releases.get((service["spec"].get("selector") or {}).get(objects.HASH, ""), "?")

    def hash_of(self, service: str, backend: Mapping[str, Any]) -> str:
        """The pod-hash of the backend's release, from the Deployment that is there. Raises OperationFailed without one."""
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

    async def lead(self, service: str, name: str, pod_hash: str, *, confirmed: bool) -> None:
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
            operations: list[dict[str, Any]] = [
                {"op": "test", "path": "/metadata/resourceVersion", "value": there["metadata"]["resourceVersion"]},
                {"op": "add", "path": "/spec/selector", "value": selector},
            ]
            await cluster.client.patch(cluster.path("services", name), cluster.fenced(there, operations))
        if confirmed:
            await self._confirm(name, pod_hash)

    async def _confirm(self, name: str, pod_hash: str) -> None:
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
