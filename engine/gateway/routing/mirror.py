"""Copies of users' requests to the shadow track: bounded, after the user's answer, and never counted to anybody."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass

from adapters.ports import Backend, Route
from adapters.routing import Mirror
from engine.gateway.lanes import Bounds, Lanes
from engine.gateway.ledger import Spool
from engine.gateway.logs import log
from engine.gateway.pool import Pool
from engine.gateway.routing.compare import SAMPLE_BYTES, Sample, text_distance
from engine.gateway.routing.shadow import SHADOW_HEADER, Heard, ShadowFailed, ask_shadow
from engine.gateway.table import pick_replica
from state.words import Track

RESULTS = ("ok", "error", "deadline", "broken", "no_replica", "dropped")
"""ok and error are answers (error: a 5xx); dropped is a copy that the bounds did not allow."""
MAX_WAITING_BYTES = 16 << 20
"""Bodies of copies that wait, of one route: a queue of large prompts must not become this worker's memory."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A request to be shown to the shadow, and how its user was answered."""

    route: Route
    request_id: str
    at: float
    path: str
    lines: bytes
    body: bytes
    release_id: str
    track: str
    status: int
    latency_ms: float
    tokens: int
    sample: Sample


class Mirrors:
    """Shows copies to shadows and writes down how their answers differ, without any text."""

    def __init__(self, pool: Pool, spool: Spool) -> None:
        self.results: dict[str, int] = dict.fromkeys(RESULTS, 0)
        self._pool = pool
        self._spool = spool
        self._lanes = Lanes("mirror", self._show, self._could_not)

    @property
    def running(self) -> int:
        """Copies under way."""
        return self._lanes.running

    def wants(self, route: Route) -> bool:
        """Whether this request is one of the share that is copied."""
        if route.routing is None or not (share := route.routing.mirror.share):
            return False
        return random.random() * 100 < share and shadow_of(route) is not None

    def offer(self, copy: Copy) -> None:
        """Take a copy, now or when its turn comes; one too many is dropped and counted."""
        rules = _rules(copy.route)
        bounds = Bounds(rules.concurrency, rules.queue, MAX_WAITING_BYTES)
        if not self._lanes.offer((copy.route.service, copy.route.env), copy, bounds, size=len(copy.body)):
            self.results["dropped"] += 1

    async def close(self) -> None:
        """Leave off: a worker that goes does not wait for shadows."""
        self.results["dropped"] += await self._lanes.close()

    def _could_not(self, error: BaseException) -> None:
        self.results["broken"] += 1
        log("mirror_failed", error=f"{type(error).__name__}: {error}")

    async def _show(self, copy: Copy) -> None:
        shadow = shadow_of(copy.route)
        choice = pick_replica(shadow, self._pool.healthy, self._pool.inflight, 0) if shadow is not None else None
        if choice is None or choice.spawn_id not in self._pool.replicas:
            self.results["no_replica"] += 1
            return
        deadline_s = _rules(copy.route).deadline_s
        own = f"X-Request-Id: {copy.request_id}\r\n{SHADOW_HEADER}: 1\r\nX-Airboss-Deadline-Ms: {int(deadline_s * 1000)}\r\n"
        replica, started = self._pool.begin(choice.spawn_id), time.perf_counter()
        heard: Heard | None = None
        try:
            heard = await ask_shadow(replica, copy.path, copy.lines + own.encode(), copy.body, deadline_s)
            result = "error" if heard.status >= 500 else "ok"
        except TimeoutError:
            result = "deadline"
        except ShadowFailed:
            result = "broken"
        finally:
            self._pool.end(replica)
        took_ms = (time.perf_counter() - started) * 1000
        self.results[result] += 1
        await self._write_down(copy, choice.backend, result, took_ms, heard)

    async def _write_down(self, copy: Copy, shadow: Backend, result: str, took_ms: float, heard: Heard | None) -> None:
        distance = None
        if heard is not None and heard.status == copy.status == 200:
            distance = await asyncio.to_thread(
                text_distance, bytes(copy.sample.head[:SAMPLE_BYTES]), bytes(heard.sample.head)
            )
        self._spool.add(
            {
                "id": copy.request_id,
                "at": round(copy.at, 3),
                "service": copy.route.service,
                "env": copy.route.env,
                "rollout_id": copy.route.rollout_id,
                "release": copy.release_id,
                "track": copy.track,
                "shadow_release": shadow.release_id,
                "result": result,
                "code": copy.status,
                "shadow_code": heard.status if heard is not None else 0,
                "latency_ms": round(copy.latency_ms, 2),
                "shadow_latency_ms": round(took_ms, 2),
                "bytes": copy.sample.length,
                "shadow_bytes": heard.sample.length if heard is not None else 0,
                "tokens": copy.tokens,
                "shadow_tokens": heard.tokens if heard is not None else 0,
                "distance": distance,
            }
        )


def shadow_of(route: Route) -> Backend | None:
    """The route's shadow track, if it has one."""
    return next((backend for backend in route.backends if backend.track == Track.SHADOW), None)


def _rules(route: Route) -> Mirror:
    return route.routing.mirror if route.routing is not None else Mirror()
