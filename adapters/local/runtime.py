"""The local runtime: replicas are model server processes on this host."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx

from adapters.local.places import Place, Slot
from adapters.local.supervisor import Supervisor
from adapters.ports import ReplicaSetSpec, ReplicaStatus

MODULE = "engine.serving.server"
DRAIN_S = 30.0
PROBE_TIMEOUT_S = 20.0


class LocalRuntime:
    """Runtime (adapters.ports) over the supervisor's places, one a replica."""

    def __init__(self, supervisor: Supervisor, *, threads: int, crash_loop_after: int) -> None:
        self.supervisor = supervisor
        self.threads = threads
        self.crash_loop_after = crash_loop_after
        self._draining: set[asyncio.Task[None]] = set()

    async def ensure(self, spec: ReplicaSetSpec, *, allow_faults: bool = False) -> None:
        """Have exactly `spec.replicas` processes of the release; those too many are drained first of the last."""
        for index in range(spec.replicas):
            await self.supervisor.want(self._slot(spec, index, allow_faults))
        for place in self._places(spec.service, spec.env):
            if _is_of(place, spec) and place.slot.index >= spec.replicas:
                self._drain(place)

    @contextmanager
    def set_aside(self, service: str, env: str, release_id: str, role: str = "") -> Iterator[None]:
        """For the length of a block the set's replicas are not ready for anybody, and who wants them waits."""
        places = [p for p in self._places(service, env) if (p.slot.release_id, p.slot.role) == (release_id, role)]
        for place in places:
            place.is_set_aside = True
        try:
            yield
        finally:
            for place in places:
                place.is_set_aside = False

    def _drain(self, place: Place) -> None:
        """End a replica beside the caller: its streams may take as long as DRAIN_S to finish."""
        if place.is_wanted:
            place.is_wanted = False
            task = asyncio.create_task(
                self.supervisor.unwant(place.slot.owner, DRAIN_S), name=f"drain {place.slot.owner}"
            )
            self._draining.add(task)
            task.add_done_callback(self._draining.discard)

    def restart(self, spawn_id: str) -> None:
        """Have a new process in the place of the replica `spawn_id`, beside the caller."""
        for place in self.supervisor.of("model"):
            if place.child.spec.spawn_id == spawn_id:
                task = asyncio.create_task(
                    self.supervisor.restart(place.slot.owner, DRAIN_S), name=f"restart {place.slot.owner}"
                )
                self._draining.add(task)
                task.add_done_callback(self._draining.discard)

    async def observe(self, service: str, env: str) -> Sequence[ReplicaStatus]:
        """Every replica of the service in the environment."""
        return [status_of(place) for place in self._places(service, env)]

    def replicas(self, service: str, env: str) -> list[ReplicaStatus]:
        """`observe` without waiting: the local runtime knows."""
        return [status_of(place) for place in self._places(service, env)]

    async def probe(self, spec: ReplicaSetSpec) -> str | None:
        """Generate one token on each ready replica of the release."""
        ready = [p for p in self._places(spec.service, spec.env) if _is_of(p, spec) and p.is_ready]
        if len(ready) < spec.replicas:
            return f"{len(ready)} of {spec.replicas} replicas are ready"
        for place in ready:
            trouble = await generates_a_token(place.child.spec.socket)
            if trouble:
                return f"{place.child.spec.spawn_id}: {trouble}"
        return None

    def crash_loop(self, service: str, env: str, release_id: str) -> str | None:
        """The reason the release's replicas count as a crash loop here, or None."""
        for place in self._places(service, env):
            if place.slot.release_id == release_id:
                reason = self.supervisor.crash_loop(place.slot.owner)
                if reason:
                    return reason
        return None

    def _places(self, service: str, env: str) -> list[Place]:
        return [p for p in self.supervisor.of("model") if p.slot.service == service and p.slot.env == env]

    def _slot(self, spec: ReplicaSetSpec, index: int, allow_faults: bool) -> Slot:
        payload = server_payload(spec, self.threads, allow_faults)
        return Slot(
            owner=owner_of(spec, index),
            kind="model",
            module=MODULE,
            payload=lambda spawn_id: payload,
            service=spec.service,
            env=spec.env,
            release_id=spec.release_id,
            digest=spec.digest,
            index=index,
            role=spec.role,
            crash_loop_after=self.crash_loop_after,
            # Where spans go, which are kept, and what a collector wants as headers: OpenTelemetry's own way to say it.
            passed_env=[name for name in os.environ if name.startswith("OTEL_")],
        )


def owner_of(spec: ReplicaSetSpec, index: int) -> str:
    """The name of the place of a set's replica `index`."""
    role = [spec.role] if spec.role else []
    return "/".join(["model", spec.service, spec.env, spec.release_id, *role, str(index)])


def server_payload(spec: ReplicaSetSpec, threads: int, allow_faults: bool) -> dict[str, Any]:
    """What a model server of the set is told."""
    return {
        "bundle": str(spec.bundle_path),
        "service": spec.service,
        "env": spec.env,
        "release_id": spec.release_id,
        "serving": dict(spec.serving),
        "threads": threads,
        "allow_faults": allow_faults,
    }


def status_of(place: Place) -> ReplicaStatus:
    """A place as the port's value."""
    slot = place.slot
    return ReplicaStatus(
        spawn_id=place.child.spec.spawn_id,
        service=slot.service,
        env=slot.env,
        release_id=slot.release_id,
        digest=slot.digest,
        slot=slot.index,
        address=f"unix:{place.child.spec.socket}",
        pid=place.child.pid,
        is_ready=place.is_ready and place.is_wanted and not place.is_set_aside,
        is_alive=place.child.is_alive(),
        restarts=place.restarts,
        end_cause=place.last_end,
        is_wanted=place.is_wanted,
        role=slot.role,
    )


def _is_of(place: Place, spec: ReplicaSetSpec) -> bool:
    return (place.slot.release_id, place.slot.role) == (spec.release_id, spec.role)


async def generates_a_token(socket: str) -> str | None:
    """Ask the model server behind `socket` for one token; None when it came, else what went wrong."""
    body = {"prompt": "the ", "max_tokens": 1, "temperature": 0}
    try:
        # No TLS here: without verify=False the transport would read all root certificates first.
        transport = httpx.AsyncHTTPTransport(uds=socket, verify=False)
        async with httpx.AsyncClient(transport=transport, timeout=PROBE_TIMEOUT_S) as client:
            answer = await client.post("http://replica/generate", json=body, headers={"x-airboss-probe": "1"})
    except httpx.HTTPError as error:
        return f"did not answer the probe: {type(error).__name__} {error}"
    if answer.status_code != 200:
        return f"answered the probe with {answer.status_code}: {answer.text[:200]}"
    if int(answer.json().get("tokens_generated", 0)) < 1:
        return "answered the probe without a token"
    return None
