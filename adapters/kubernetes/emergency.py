"""The program that `airboss rollback --emergency` runs where the plan it has kept leads into a cluster.

Its first line of input is the plan. It answers with a line of what is there, and, told `go`, goes back as the engine would
(capacity, then traffic, each write absolute and read back) and answers with what came of it. Lines are JSON; trouble is a
line with `error`. Neither store, configuration file nor engine is asked.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.kubernetes import http_route, objects
from adapters.kubernetes.cluster import Cluster
from adapters.kubernetes.router import KubeRouter
from adapters.kubernetes.runtime import KubeRuntime
from adapters.kubernetes.selectors import ENTRY
from adapters.kubernetes.way_back import kubectl_lines, read_way
from adapters.ports import Observed, ReplicaSetSpec, ReplicaStatus
from state.words import AirbossError, OperationFailed, Track, Unreachable

LOOK_TIMEOUT_S = 30.0
TRAFFIC_TIMEOUT_S = 60.0
POLL_S = 0.5
Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Emergency:
    """One plan, in its cluster."""

    cluster: Cluster
    spec: ReplicaSetSpec
    route: Mapping[str, Any]

    async def look(self) -> Object:
        """What is there now: the split, the release's pods that are ready, and the lines that do it by hand."""
        await self._fill()
        seen = await self._observed()
        return {
            "weights": dict(seen.weights) if seen is not None else None,
            "replicas": self._replicas(),
            "kubectl": self._lines(),
        }

    async def go(self, start_timeout_s: float) -> Object:
        """Have the release's pods, then its traffic. Raises AirbossError; `written` says whether the traffic was moved all the same."""
        await self._fill()
        await self._capacity(start_timeout_s)
        trouble: AirbossError | None = None
        if self.cluster.target.traffic != "gateway":
            try:
                async with asyncio.timeout(TRAFFIC_TIMEOUT_S):
                    await KubeRouter(self.cluster).settle([self.route], self.spec.service)
            except TimeoutError:
                trouble = Unreachable(f"the cluster did not take the traffic over within {TRAFFIC_TIMEOUT_S:g} s")
            except AirbossError as error:
                trouble = error
        return {"replicas": self._replicas(), **await self._read_back(trouble)}

    async def _read_back(self, trouble: AirbossError | None) -> Object:
        if self.cluster.target.traffic == "gateway":
            return {"written": True, "confirmed": True}
        seen = await self._observed()
        weights = None if seen is None else dict(seen.weights)
        if trouble is None and weights != {self.spec.release_id: 100}:
            trouble = Unreachable(
                f"it reads back as {weights or 'a split that no gateway has confirmed'}, not as 100 % {self.spec.release_id}",
                hint="`kubectl get httproute,service -o yaml` shows it; run the command again",
            )
        written = trouble is None or await self._is_written()
        return {"written": written, "confirmed": trouble is None, **({"error": trouble.as_dict()} if trouble else {})}

    async def _is_written(self) -> bool:
        """The objects say what they should, whatever gateways have made of it."""
        client, path = self.cluster.client, self.cluster.path
        is_service = self.cluster.target.traffic == "service"
        name = objects.track_service(self.spec.service, ENTRY if is_service else Track.STABLE)
        try:
            led = await client.get(path("services", name))
            if led is None or led["spec"].get("selector") != {objects.HASH: objects.spec_hash(self.spec)}:
                return False
            if is_service:
                return True
            route = await client.get(path("httproutes", self._route_name()))
        except AirbossError:
            return False
        split = http_route.read(route["spec"].get("rules") or [], self.spec.service) if route else None
        return split is not None and dict(split.weights) == {Track.STABLE: 100} and not split.headers

    async def _capacity(self, timeout_s: float) -> None:
        """At least one pod of the release that is ready; all it should have, where half the time is enough for that."""
        runtime = KubeRuntime(self.cluster)
        ready = len(self._replicas())
        try:
            await runtime.ensure(self.spec)
        except AirbossError as error:
            if not ready:
                raise
            _say({"note": f"{ready} of {self.spec.replicas} pods are ready, and no more can be had: {error.message}"})
        begun = time.monotonic()
        while not ready or (ready < self.spec.replicas and not self._serves_meanwhile(begun, timeout_s)):
            place = (self.spec.service, self.spec.env, self.spec.release_id)
            if why := runtime.crash_loop(*place) or runtime.lacks(*place):
                raise OperationFailed(
                    f"{self.spec.release_id} does not start, so no traffic was moved to it: {why}",
                    hint="`airboss help kubernetes` has what pods need",
                    code="cold",
                )
            if time.monotonic() - begun > timeout_s:
                raise OperationFailed(
                    f"no pod of {self.spec.release_id} is ready after {timeout_s:.0f} s, so no traffic was moved to it",
                    hint="--timeout gives it longer; `kubectl describe pods` says what they wait for",
                    code="cold",
                )
            await asyncio.sleep(POLL_S)
            await self._fill()
            ready = len(self._replicas())

    def _serves_meanwhile(self, begun: float, timeout_s: float) -> bool:
        return time.monotonic() - begun > timeout_s / 2

    async def _fill(self) -> None:
        await asyncio.gather(self.cluster.deployments.fill(), self.cluster.pods.fill())

    def _ready(self) -> list[ReplicaStatus]:
        there = KubeRuntime(self.cluster).replicas(self.spec.service, self.spec.env)
        return [r for r in there if (r.release_id, r.role) == (self.spec.release_id, "") and r.is_ready]

    def _replicas(self) -> list[list[str]]:
        return [[r.spawn_id, r.address] for r in self._ready()]

    async def _observed(self) -> Observed | None:
        if self.cluster.target.traffic == "gateway":
            return None
        return await KubeRouter(self.cluster).observe(self.spec.service)

    def _route_name(self) -> str:
        return self.cluster.target.route or self.spec.service

    def _lines(self) -> list[str]:
        pods = self.cluster.pods_of(self.spec.service)
        return kubectl_lines(self.cluster.target, pods, self.spec, self.cluster.routes.get(self.spec.service))


def opened(plan: Mapping[str, Any], root: Path) -> Emergency:
    """The plan's cluster. Raises OperationFailed on a plan that is none."""
    try:
        way = plan["cluster"]
        config, target, spec = read_way(way, plan["service"], plan["env"])
    except (KeyError, ValueError, TypeError) as error:
        raise OperationFailed(
            f"the rollback plan says nothing usable of its cluster: {error}",
            hint="`airboss up -d`, then `airboss rollback`",
        ) from error
    cluster = Cluster(spec.env, target, config, root, lambda: None)
    cluster.author = f"{way.get('author', '')}, rollback --emergency".removeprefix(", ")
    return Emergency(cluster, spec, plan["route"])


async def converse(root: Path) -> None:
    """Look, and go when told so."""
    it: Emergency | None = None
    try:
        it = opened(json.loads(await asyncio.to_thread(sys.stdin.readline)), root)
        async with asyncio.timeout(LOOK_TIMEOUT_S):
            _say(await it.look())
        word, _, timeout_s = (await asyncio.to_thread(sys.stdin.readline)).strip().partition(" ")
        if word == "go":
            _say(await it.go(float(timeout_s)))
    except TimeoutError:
        late = Unreachable(f"the cluster did not say within {LOOK_TIMEOUT_S:g} s what is there")
        _say({"error": late.as_dict()})
    except AirbossError as error:
        _say({"error": error.as_dict()})
    finally:
        if it is not None:
            await it.cluster.client.close()


def _say(line: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(converse(Path(sys.argv[1])))
