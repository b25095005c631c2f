"""Asks every replica how it does, and keeps the last minutes: what the scaler decides on and the advice is made of."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import httpx

from adapters.ports import ReplicaStatus
from engine.autoscaling.capacity import Measured
from engine.autoscaling.policy import Sample, TrackLoad
from engine.autoscaling.reading import Reading, concurrency_of, read_exposition
from state.autoscale_config import Autoscale
from state.config import Config

KEPT_S = 3600.0
ANSWER_TIMEOUT_S = 2.0
Place = tuple[str, str]
"""Service and environment."""


@dataclass(frozen=True, slots=True)
class _Done:
    """What the replicas of a place finished between two looks."""

    since: float
    until: float
    requests: float
    busy_s: float
    waited_s: float


@dataclass(slots=True)
class _Kept:
    samples: deque[Sample] = field(default_factory=deque)
    done: deque[_Done] = field(default_factory=deque)
    replicas: int = 0
    concurrency: int = 1
    looked_at: float | None = None


class LoadWatcher:
    """Looks at the replicas of every service. `served`: place → releases that requests go to now."""

    def __init__(
        self,
        config: Config,
        replicas: Callable[[str, str], Sequence[ReplicaStatus]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._replicas = replicas
        self._clock = clock
        self._kept: dict[Place, _Kept] = {}
        self._last: dict[str, Reading] = {}
        self._concurrency: dict[str, int] = {}
        self._clients: dict[str, httpx.AsyncClient] = {}

    async def look(self, served: Mapping[Place, Sequence[str]]) -> None:
        """One look at every replica of the served releases."""
        ready: dict[Place, list[ReplicaStatus]] = {
            place: [r for r in self._replicas(*place) if r.is_ready and r.is_alive and r.release_id in releases]
            for place, releases in served.items()
        }
        known = [r for found in ready.values() for r in found]
        readings = dict(zip((r.spawn_id for r in known), await asyncio.gather(*map(self._ask, known)), strict=True))
        for place, found in ready.items():
            self._keep(place, served[place], found, readings)
        await self._forget({r.spawn_id for r in known})

    def replicas(self, service: str, env: str) -> Sequence[ReplicaStatus]:
        """Every replica of the service there, processes of this host and pods alike."""
        return self._replicas(service, env)

    def samples(self, service: str, env: str) -> Sequence[Sample]:
        """What was seen, oldest first."""
        kept = self._kept.get((service, env))
        return tuple(kept.samples) if kept else ()

    def measured(self, service: str, env: str, window_s: float) -> Measured | None:
        """What was done in the last `window_s` seconds, or in as many of them as were seen; None before two looks."""
        kept = self._kept.get((service, env))
        now = self._clock()
        done = [d for d in kept.done if d.until > now - window_s] if kept else []
        if not kept or not done:
            return None
        return Measured(
            window_s=done[-1].until - done[0].since,
            requests=round(sum(d.requests for d in done)),
            busy_s=sum(d.busy_s for d in done),
            waited_s=sum(d.waited_s for d in done),
            replicas=kept.replicas,
            concurrency=kept.concurrency,
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._forget(set())

    async def _ask(self, replica: ReplicaStatus) -> Reading | None:
        """Its reading; None when it does not answer in time: it may be busy, and another look comes soon."""
        client = self._clients.get(replica.spawn_id)
        if client is None:
            # No TLS here: without verify=False the transport would read all root certificates first.
            is_here = replica.address.startswith("unix:")
            uds = replica.address.removeprefix("unix:") if is_here else None
            transport = httpx.AsyncHTTPTransport(uds=uds, verify=False)
            client = httpx.AsyncClient(
                transport=transport,
                base_url="http://replica" if is_here else replica.address,
                timeout=ANSWER_TIMEOUT_S,
                trust_env=False,
            )
            self._clients[replica.spawn_id] = client
        try:
            if replica.spawn_id not in self._concurrency:
                shake = (await client.get("/admin/handshake")).json()
                self._concurrency[replica.spawn_id] = concurrency_of(shake)
            return read_exposition((await client.get("/metrics")).text)
        except (httpx.HTTPError, OSError, ValueError):
            return None

    def _keep(
        self,
        place: Place,
        releases: Sequence[str],
        found: Sequence[ReplicaStatus],
        readings: Mapping[str, Reading | None],
    ) -> None:
        now, kept = self._clock(), self._kept.setdefault(place, _Kept())
        autoscale = self._config.service[place[0]].autoscale
        tracks = tuple(
            self._track([r for r in found if r.release_id == release], readings, autoscale) for release in releases
        )
        kept.samples.append(Sample(now, tracks))
        kept.replicas = sum(t.ready for t in tracks)
        kept.concurrency = max((t.concurrency for t in tracks), default=1)
        deltas = [_since(self._last.get(r.spawn_id), readings[r.spawn_id]) for r in found]
        if kept.looked_at is not None:
            kept.done.append(_Done(kept.looked_at, now, *map(sum, zip(*deltas, strict=True))) if deltas else _Done(kept.looked_at, now, 0, 0, 0))  # fmt: skip
        kept.looked_at = now
        for replica in found:
            reading = readings[replica.spawn_id]
            if reading is not None:
                self._last[replica.spawn_id] = reading
        while kept.samples and kept.samples[0].at < now - KEPT_S:
            kept.samples.popleft()
        while kept.done and kept.done[0].until < now - KEPT_S:
            kept.done.popleft()

    def _track(
        self, replicas: Sequence[ReplicaStatus], readings: Mapping[str, Reading | None], autoscale: Autoscale | None
    ) -> TrackLoad:
        seen = [reading for r in replicas if (reading := readings[r.spawn_id]) is not None]
        own = [self._concurrency.get(r.spawn_id, 1) for r in replicas]
        asked = autoscale.concurrency if autoscale else 0
        return TrackLoad(
            demand=sum(r.running + r.waiting for r in seen),
            kv_usage=sum(r.kv_usage for r in seen) / len(seen) if seen else 0.0,
            ready=len(replicas),
            sampled=len(seen),
            concurrency=asked or min(own, default=1),
        )

    async def _forget(self, living: set[str]) -> None:
        for spawn_id in [s for s in self._clients if s not in living]:
            await self._clients.pop(spawn_id).aclose()
            self._last.pop(spawn_id, None)
            self._concurrency.pop(spawn_id, None)


def _since(before: Reading | None, now: Reading | None) -> tuple[float, float, float]:
    """Requests, seconds in service and seconds waited between two readings; nothing when one of them is missing."""
    if before is None or now is None or now.requests < before.requests:
        return 0.0, 0.0, 0.0
    waited = max(0.0, now.queued_s - before.queued_s)
    return now.requests - before.requests, max(0.0, now.e2e_s - before.e2e_s - waited), waited
