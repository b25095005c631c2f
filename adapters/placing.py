"""Where each environment's replicas run and who splits its traffic: processes here, or a cluster's namespace."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from sqlmodel import Session

from adapters.kubernetes import gitops, signatures
from adapters.kubernetes.argo_rollouts import moved_by_argo
from adapters.kubernetes.logs import pod_logs
from adapters.kubernetes.permissions import lacking
from adapters.kubernetes.router import KubeRouter
from adapters.kubernetes.runtime import KubeRuntime
from adapters.kubernetes.signatures import Checked
from adapters.kubernetes.way_back import kept_way
from adapters.local.router import LocalRouter
from adapters.local.runtime import LocalRuntime
from adapters.ports import Observed, ReplicaSetSpec, ReplicaStatus, Route
from state.config import Config
from state.words import Conflict, Denied


@dataclass(frozen=True, slots=True)
class PlacedRuntime:
    """Runtime (adapters.ports): each environment's own. `clusters`: environment → its runtime; all others run here."""

    local: LocalRuntime
    clusters: Mapping[str, KubeRuntime]
    config: Config

    def _of(self, env: str) -> LocalRuntime | KubeRuntime:
        return self.clusters.get(env, self.local)

    async def ensure(self, spec: ReplicaSetSpec, *, allow_faults: bool = False) -> None:
        """Make the set so. Raises Conflict where the environment has moved since the engine began."""
        settings = self.config.environment.get(spec.env)
        if settings is not None and (settings.cluster is None) == (spec.env in self.clusters):
            raise Conflict(
                f"{spec.env} has other targets than when the engine began: {spec.release_id} is left where it is",
                hint="`airboss down`, then `airboss up`: what serves goes on meanwhile",
            )
        await self._of(spec.env).ensure(spec, allow_faults=allow_faults)

    async def observe(self, service: str, env: str) -> Sequence[ReplicaStatus]:
        """Every replica there, asked now."""
        return await self._of(env).observe(service, env)

    def replicas(self, service: str, env: str) -> list[ReplicaStatus]:
        """Every replica there, as far as is known without waiting."""
        return self._of(env).replicas(service, env)

    async def probe(self, spec: ReplicaSetSpec) -> str | None:
        """One token of each."""
        return await self._of(spec.env).probe(spec)

    def crash_loop(self, service: str, env: str, release_id: str) -> str | None:
        """Why it counts as a crash loop."""
        return self._of(env).crash_loop(service, env, release_id)

    def set_aside(self, service: str, env: str, release_id: str, role: str = "") -> AbstractContextManager[None]:
        """Nobody counts on the set for the length of a block; in a cluster nothing is to be done for that."""
        return nullcontext() if env in self.clusters else self.local.set_aside(service, env, release_id, role)

    def lacks(self, service: str, env: str, release_id: str) -> str | None:
        """What of the cluster's its pods wait for; None where replicas run here."""
        return self.clusters[env].lacks(service, env, release_id) if env in self.clusters else None

    async def logs(self, service: str, env: str, replica: str, lines: int) -> list[dict[str, Any]]:
        """What the service's pods wrote, and what befell them; of every cluster where `env` is "". Nothing of this host."""
        asked = [runtime.cluster for name, runtime in self.clusters.items() if env in ("", name)]
        found = await asyncio.gather(*(pod_logs(cluster, service, replica, lines) for cluster in asked))
        return [one for of in found for one in of]

    def floor_moves(self, env: str) -> int:
        """How often pods were asked for in the environment's cluster: taken before what `hold_floors` is given is read."""
        return self.clusters[env].floors.moves if env in self.clusters else 0

    async def hold_floors(self, env: str, wanted: Mapping[tuple[str, str], int], moves: int) -> None:
        """No autoscaler of the environment's cluster goes below these; its other floors are given back."""
        if env in self.clusters:
            await self.clusters[env].hold_floors(wanted, moves)

    async def checked_image(self, env: str, service: str, release_id: str) -> tuple[str, Checked] | None:
        """(the image a release would run in the environment's cluster, what is known of it); None where it runs no image.

        Raises GateRefused when it is not what it must be.
        """
        runtime = self.clusters.get(env)
        image = runtime.image_of(service, release_id) if runtime is not None else ""
        if runtime is None or not image:
            return None
        wanted = runtime.cluster.pods_of(service).verify
        return image, await asyncio.to_thread(signatures.check, image, wanted, runtime.cluster.root)

    async def moved_by_another(self, env: str, service: str) -> str:
        """What of a rollout's writes another controller of the cluster moves, and which; "" for nothing, and on this host."""
        runtime = self.clusters.get(env)
        if runtime is None:
            return ""
        return await moved_by_argo(runtime.cluster, service, runtime.cluster.target.route or service)

    async def kept_in_git(self, env: str, service: str) -> tuple[tuple[str, ...], str]:
        """(what of a rollout's writes Git's tool would take back, what to write in Git so that it does not); nothing for this host."""
        runtime = self.clusters.get(env)
        if runtime is None:
            return (), ""
        found = await gitops.reverted(runtime.cluster, service, runtime.cluster.target.route or service)
        return tuple(said for said, _ in found), gitops.ignore_lines(tuple(written for _, written in found))

    async def refusal_of(self, env: str) -> Denied | None:
        """What a rollout there would not be allowed, asked of the cluster now. Raises AirbossError when it does not say."""
        runtime = self.clusters.get(env)
        if runtime is None or not (found := await runtime.cluster.ask_allowed()):
            return None
        return lacking(runtime.cluster.namespace, found)

    def way_back(self, spec: ReplicaSetSpec) -> dict[str, Any] | None:
        """What a kept rollback plan must say of the environment's cluster; None where replicas run here."""
        runtime = self.clusters.get(spec.env)
        if runtime is None:
            return None
        cluster = runtime.cluster
        pods, rules = cluster.pods_of(spec.service), cluster.routes.get(spec.service)
        return kept_way(cluster.target, pods, cluster.author, spec, rules)

    def restart(self, spawn_id: str) -> None:
        """A new one in the place of this replica."""
        for runtime in self.clusters.values():
            if spawn_id in runtime.cluster.pods.objects:
                return runtime.restart(spawn_id)
        return self.local.restart(spawn_id)


@dataclass(frozen=True, slots=True)
class PlacedRouter:
    """TrafficRouter (adapters.ports): our gateway's table, and beside it whatever splits a cluster's own traffic."""

    local: LocalRouter
    clusters: Mapping[str, KubeRouter]

    def mean(self, session: Session, route: Route) -> None:
        """Write down what is meant; `publish` makes it so."""
        self.local.mean(session, route)

    async def apply(self, route: Route, is_wanted: Callable[[Session], bool] = lambda session: True) -> int:
        """Set the service's tracks and have everybody who splits its traffic follow. Returns the table's revision."""
        revision = await self.local.apply(route, is_wanted)
        if route.env in self.clusters:
            await self.clusters[route.env].settle(await self.local.routes(), route.service)
        return revision

    async def publish(self) -> int:
        """Have what is meant served everywhere. A cluster that does not answer hinders no other."""
        revision = await self.local.publish()
        if self.clusters:
            routes = await self.local.routes()
            done = await asyncio.gather(
                *(router.settle(routes) for router in self.clusters.values()), return_exceptions=True
            )
            for trouble in done:
                if isinstance(trouble, BaseException):
                    raise trouble
        return revision

    async def observe(self, service: str, env: str) -> Observed | None:
        """The route as it is served where the environment's users come in."""
        if env in self.clusters:
            return await self.clusters[env].observe(service)
        return await self.local.observe(service, env)
