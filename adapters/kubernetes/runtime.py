"""Runtime (adapters.ports) by Deployments, one a release. A live Deployment is only ever scaled: its pods stay what they were."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx

from adapters.kubernetes import objects
from adapters.kubernetes.cluster import RANK, Cluster
from adapters.kubernetes.floors import Floors
from adapters.kubernetes.pods import cannot_serve, lacks, status_of
from adapters.local.tables import role_of
from adapters.ports import ReplicaSetSpec, ReplicaStatus
from state.words import AirbossError, Conflict, Denied, Unreachable

log = logging.getLogger("airboss.kubernetes")
PROBE_TIMEOUT_S = 30.0
TRIES = 4


class KubeRuntime:
    """The replicas of one environment's target."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.last_served: list[ReplicaStatus] = []
        """What the gateway asked when the engine began: it goes on doing so until the cluster has answered once."""
        self.floors = Floors(cluster)
        self._evicting: set[asyncio.Task[None]] = set()

    async def ensure(self, spec: ReplicaSetSpec, *, allow_faults: bool = False) -> None:
        """Have the set's Deployment with so many replicas. One that is not there is made; for none it is scaled to 0 and kept."""
        cluster, name = self.cluster, objects.name_of(spec)
        for attempt in range(TRIES):
            there = await cluster.client.get(cluster.path("deployments", name))
            if there is None:
                if spec.replicas:
                    cluster.demand_ownership("full", f"Deployment {name} cannot be made")
                    await self._make(spec)
                    await self.floors.follow(name, spec.replicas)
                return
            if int(there["spec"].get("replicas", 1)) == spec.replicas:
                cluster.deployments.put(there)
                await self.floors.follow(name, spec.replicas)
                return
            cluster.demand_ownership("weights", f"Deployment {name} cannot be scaled to {spec.replicas}")
            await self.floors.follow(name, spec.replicas)
            cluster.fenced(there, [])
            version = there["metadata"]["resourceVersion"]
            scaled = {"metadata": {"resourceVersion": version}, "spec": {"replicas": spec.replicas}}
            try:
                await cluster.client.merge(cluster.path("deployments", name, "scale"), scaled)
                return
            except Conflict:
                # Its status alone moves the version while pods come and go: look again, at once.
                if attempt == TRIES - 1:
                    raise

    def image_of(self, service: str, release_id: str) -> str:
        """What the release's pods run, or would run once it is made; "" where somebody else makes them and has not."""
        for one in self.cluster.deployments.objects.values():
            labels = _labels(one)
            if (labels.get(objects.NAME), labels.get(objects.RELEASE)) == (service, release_id) and not labels.get(
                objects.ROLE
            ):
                return str(one["spec"]["template"]["spec"]["containers"][0]["image"])
        return self.cluster.pods_of(service).image if self.cluster.target.ownership == "full" else ""

    async def hold_floors(self, wanted: Mapping[tuple[str, str], int], moves: int) -> None:
        """(service, release) → replicas that no autoscaler may go below; every other floor is given back."""
        if RANK[self.cluster.target.ownership] < RANK["weights"]:
            return
        await self.floors.hold(
            {
                name: wanted[place]
                for name, one in self.cluster.deployments.objects.items()
                if (place := (_labels(one).get(objects.NAME, ""), _labels(one).get(objects.RELEASE, ""))) in wanted
                and not _labels(one).get(objects.ROLE)
            },
            moves,
        )

    async def _make(self, spec: ReplicaSetSpec) -> None:
        cluster, name = self.cluster, objects.name_of(spec)
        pods = cluster.pods_of(spec.service)
        wanted = objects.deployment(spec, pods, cluster.namespace, cluster.author)
        await cluster.client.apply(cluster.path("deployments", name), wanted, dry_run=True)
        await cluster.client.apply(
            cluster.path("configmaps", name), objects.config_map(spec, cluster.namespace, cluster.author)
        )
        if pods.disruption_budget:
            await self._budget(spec, name)
        cluster.deployments.put(await cluster.client.apply(cluster.path("deployments", name), wanted))

    async def _budget(self, spec: ReplicaSetSpec, name: str) -> None:
        budget = objects.disruption_budget(spec, self.cluster.namespace, self.cluster.author)
        try:
            await self.cluster.client.apply(self.cluster.path("poddisruptionbudgets", name), budget)
        except Denied as error:
            # It protects against drains of nodes; a release must not wait for that permission.
            log.warning("%s has no disruption budget: %s", name, error)

    async def observe(self, service: str, env: str) -> Sequence[ReplicaStatus]:
        """Every replica of the service in the environment, asked now."""
        cluster = self.cluster
        items, _ = await cluster.client.list(cluster.path("pods"), f"{objects.ours(env)},{objects.NAME}={service}")
        port = cluster.pods_of(service).port
        return [status_of(pod, port) for pod in items]

    def replicas(self, service: str, env: str) -> list[ReplicaStatus]:
        """As the watch has it; as it was last seen while the cluster does not answer."""
        if not self.cluster.pods.is_filled.is_set():
            return [one for one in self.last_served if one.service == service]
        port = self.cluster.pods_of(service).port
        return [
            status_of(pod, port)
            for _, pod in sorted(self.cluster.pods.objects.items())
            if pod["metadata"].get("labels", {}).get(objects.NAME) == service
        ]

    async def probe(self, spec: ReplicaSetSpec) -> str | None:
        """Generate one token on each ready pod of the release."""
        ready = [
            r for r in self.replicas(spec.service, spec.env)
            if (r.release_id, r.role) == (spec.release_id, spec.role) and r.is_ready
        ]  # fmt: skip
        if len(ready) < spec.replicas:
            return f"{len(ready)} of {spec.replicas} pods are ready"
        troubles = await asyncio.gather(*(self._generates(spec.service, replica) for replica in ready))
        return next((f"{r.spawn_id}: {said}" for r, said in zip(ready, troubles, strict=True) if said), None)

    async def _generates(self, service: str, replica: ReplicaStatus) -> str | None:
        pods = self.cluster.pods_of(service)
        body: dict[str, Any] = {"prompt": "the ", "max_tokens": 1, "temperature": 0}
        path = "/generate"
        if pods.api == "openai":
            path, body = "/v1/completions", {"model": service, **body}
        try:
            if self.cluster.target.probes_by_proxy:
                there = self.cluster.path("pods", f"{replica.spawn_id}:{pods.port}", "proxy")
                answer = await self.cluster.client.through(there + path, body, PROBE_TIMEOUT_S)
            else:
                async with httpx.AsyncClient(timeout=PROBE_TIMEOUT_S, trust_env=False) as client:
                    answer = await client.post(replica.address + path, json=body, headers={"x-airboss-probe": "1"})
            return token_trouble(answer)
        except (httpx.HTTPError, Unreachable) as error:
            return f"did not answer the probe: {type(error).__name__} {error}"

    def crash_loop(self, service: str, env: str, release_id: str) -> str | None:
        """Why the release's pods will not come up by waiting, or None."""
        return self._first(cannot_serve, service, release_id)

    def lacks(self, service: str, env: str, release_id: str) -> str | None:
        """What of the cluster's the release's pods wait for (room, quota, image), in its own words; None for nothing."""
        return self._first(lacks, service, release_id)

    def _first(self, said: Callable[[Any, list[Any]], str | None], service: str, release_id: str) -> str | None:
        for deployment in self.cluster.deployments.objects.values():
            labels = _labels(deployment)
            if (labels.get(objects.NAME), labels.get(objects.RELEASE)) != (service, release_id):
                continue
            if not int(deployment["spec"].get("replicas", 1)):
                continue
            own = labels.get(objects.HASH)
            pods = [p for p in self.cluster.pods.objects.values() if _labels(p).get(objects.HASH) == own]
            if reason := said(deployment, pods):
                return reason
        return None

    def restart(self, spawn_id: str) -> None:
        """Evict the pod, as a node's drain would (a disruption budget may refuse); its Deployment makes a new one."""
        task = asyncio.create_task(self._evict(spawn_id), name=f"evict {spawn_id}")
        self._evicting.add(task)
        task.add_done_callback(self._evicting.discard)

    async def _evict(self, name: str) -> None:
        body = {
            "apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": {"name": name, "namespace": self.cluster.namespace},
        }  # fmt: skip
        try:
            await self.cluster.client.create(self.cluster.path("pods", name, "eviction"), body)
        except AirbossError as error:
            log.error("pod %s is not restarted: %s", name, error)


def served_by(table: Mapping[str, Any], env: str) -> list[ReplicaStatus]:
    """The replicas of an environment that a routing table names, as if they were ready."""
    return [
        ReplicaStatus(
            spawn_id=spawn_id, service=route["service"], env=env, release_id=backend["release_id"], digest="", slot=0,
            address=address, pid=0, is_ready=True, is_alive=True, restarts=0, role=role_of(backend["track"]),
        )
        for route in table.get("routes", ()) if route["env"] == env
        for backend in route["backends"]
        for spawn_id, address in backend["replicas"]
    ]  # fmt: skip


def token_trouble(answer: httpx.Response) -> str | None:
    """Why an answer to the probe holds no token; None when it does."""
    if answer.status_code != 200:
        return f"answered the probe with {answer.status_code}: {answer.text[:200]}"
    try:
        said = answer.json()
        tokens = said.get("usage", {}).get("completion_tokens", said.get("tokens_generated", 0))
        return None if int(tokens) >= 1 else "answered the probe without a token"
    except (ValueError, TypeError, AttributeError):
        return f"answered the probe with something that is no completion: {answer.text[:200]}"


def _labels(item: dict[str, Any]) -> dict[str, str]:
    return dict(item["metadata"].get("labels") or {})
