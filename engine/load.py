"""The load generator: requests that arrive by themselves, at a rate, whether or not the last ones were answered.

Arrivals are a seeded Poisson process (open loop), so a slow server meets the queue its users would make. An arrival
that finds every slot taken is not sent and is counted as `skipped`: the report says so instead of slowing down.
Latency runs from the moment a request was due, not from when a slot or the event loop came free.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import random
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from state.pinned import pinned_context
from state.words import UsageError

UNKNOWN = "unknown"
"""The track and release of a request that no gateway answered."""
_ERRORS_KEPT = 10
_LATENCY_STEP = math.log(1.02)
_REUSE_S = 10.0


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """What to send where. `requests` and `duration_s` bound the load; at least one must be given."""

    url: str
    service: str
    prompts: tuple[str, ...]
    rps: float
    env: str = ""
    max_tokens: int = 8
    temperature: float = 0.0
    requests: int | None = None
    duration_s: float | None = None
    concurrency: int = 64
    timeout_s: float = 30.0
    seed: int = 0
    allow_remote: bool = False
    path: str = "/v1/completions"
    api_key: str = field(default="", repr=False)
    trust: Path | None = None
    """The certificate of an https server that nobody vouches for."""
    show: Path | None = None
    """Our own certificate with its key, for a server that asks for one."""

    def check(self) -> None:
        """Raises UsageError when the plan cannot be meant or would load somebody else's machine."""
        if not self.prompts:
            raise UsageError("load needs at least one prompt", hint="give a prompt, or a file of them")
        if self.requests is None and self.duration_s is None:
            raise UsageError("load without an end: neither a count nor a duration", hint="give one of the two")
        numbers = {"rps": self.rps, "concurrency": self.concurrency, "timeout_s": self.timeout_s}
        for name, value in numbers.items():
            if not (math.isfinite(value) and value > 0):
                raise UsageError(f"load: {name} = {value} must be above 0")
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"load: {self.url!r} is not an http address", hint="for example http://127.0.0.1:8080")
        if not self.allow_remote and not is_loopback(parts.hostname):
            raise UsageError(
                f"load: {parts.hostname} is not this host; load is sent to a loopback address unless allowed",
                hint="use 127.0.0.1, or allow a remote address explicitly if the machine is yours to load",
                code="remote_load",
            )


@dataclass(frozen=True, slots=True)
class Outcome:
    """How many requests of one track or release were answered, and how many failed."""

    answered: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class LoadReport:
    """The load so far. sent = answered + failed + in_flight; percentiles are of answered requests, within 1 %."""

    sent: int
    answered: int
    failed: int
    in_flight: int
    skipped: int
    elapsed_s: float
    by_track: Mapping[str, Outcome]
    by_release: Mapping[str, Outcome]
    by_status: Mapping[str, int]
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    errors: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "elapsed_s": round(self.elapsed_s, 3), "errors": list(self.errors)}


@dataclass(slots=True)
class _Tally:
    """What happened, bounded in memory however long the load runs."""

    sent: int = 0
    skipped: int = 0
    answered: Counter[tuple[str, str]] = field(default_factory=Counter)
    failed: Counter[tuple[str, str]] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    latencies: Counter[int] = field(default_factory=Counter)
    errors: dict[str, None] = field(default_factory=dict)

    def answer(self, track: str, release: str, latency_s: float) -> None:
        self.answered[track, release] += 1
        self.latencies[math.ceil(math.log(max(latency_s * 1000, 0.01)) / _LATENCY_STEP)] += 1

    def fail(self, track: str, release: str, error: str) -> None:
        self.failed[track, release] += 1
        if len(self.errors) < _ERRORS_KEPT:
            self.errors.setdefault(f"{track}: {error}"[:300])

    def quantile_ms(self, share: float) -> float | None:
        """The nearest-rank quantile, at the middle of its 2 % bucket."""
        left = math.ceil(share * self.latencies.total())
        for bucket in sorted(self.latencies):
            left -= self.latencies[bucket]
            if left <= 0:
                return round(math.exp((bucket - 0.5) * _LATENCY_STEP), 3)
        return None


class LoadGenerator:
    """One load. `run` sends until the plan's end or `stop`, then waits for what is in flight."""

    def __init__(self, plan: LoadPlan) -> None:
        plan.check()
        self._plan = plan
        self._tally = _Tally()
        self._in_flight: set[asyncio.Task[None]] = set()
        self._stopped = asyncio.Event()
        self._began: float | None = None
        self._ended: float | None = None

    def stop(self) -> None:
        """Send nothing more; `run` returns once the requests in flight are answered or timed out."""
        self._stopped.set()

    async def run(self) -> LoadReport:
        """Send the load; the final report. Cancelled, it drops its requests and leaves nothing behind."""
        if self._began is not None:
            raise RuntimeError("a load runs once; make another LoadGenerator")
        plan = self._plan
        self._began = time.monotonic()
        timeout = aiohttp.ClientTimeout(total=plan.timeout_s)
        # A connection left idle may be closed by the server just as it is reused, which no user would have met.
        tls = pinned_context(plan.trust, plan.show) if plan.trust is not None else True
        connector = aiohttp.TCPConnector(limit=plan.concurrency, keepalive_timeout=_REUSE_S, ssl=tls)
        try:
            async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
                try:
                    await self._arrivals(session, self._began)
                    if self._in_flight:
                        await asyncio.wait(self._in_flight)
                finally:
                    await self._drop_in_flight()
        finally:
            self._ended = time.monotonic()
        return self.snapshot()

    def snapshot(self) -> LoadReport:
        """The load as it stands now."""
        tally = self._tally
        now = self._ended if self._ended is not None else time.monotonic()
        return LoadReport(
            sent=tally.sent,
            answered=tally.answered.total(),
            failed=tally.failed.total(),
            in_flight=tally.sent - tally.answered.total() - tally.failed.total(),
            skipped=tally.skipped,
            elapsed_s=0.0 if self._began is None else now - self._began,
            by_track=_outcomes(tally, 0),
            by_release=_outcomes(tally, 1),
            by_status=dict(sorted(tally.statuses.items())),
            p50_ms=tally.quantile_ms(0.50),
            p95_ms=tally.quantile_ms(0.95),
            p99_ms=tally.quantile_ms(0.99),
            errors=tuple(tally.errors),
        )

    async def _arrivals(self, session: aiohttp.ClientSession, began: float) -> None:
        plan, chance = self._plan, random.Random(self._plan.seed)
        due = began
        while plan.requests is None or self._tally.sent + self._tally.skipped < plan.requests:
            due += chance.expovariate(plan.rps)
            if plan.duration_s is not None and due > began + plan.duration_s:
                due = began + plan.duration_s
                await self._until(due)
                return
            await self._until(due)
            if self._stopped.is_set():
                return
            prompt = chance.choice(plan.prompts)
            if len(self._in_flight) >= plan.concurrency:
                self._tally.skipped += 1
                continue
            self._tally.sent += 1
            task = asyncio.create_task(self._send(session, prompt, due))
            self._in_flight.add(task)
            task.add_done_callback(self._in_flight.discard)

    async def _until(self, due: float) -> None:
        """Wait until `due`, or until stopped. Late arrivals go out at once, but never without yielding."""
        wait_s = due - time.monotonic()
        if wait_s <= 0:
            await asyncio.sleep(0)
            return
        try:
            async with asyncio.timeout(wait_s):
                await self._stopped.wait()
        except TimeoutError:
            return

    async def _send(self, session: aiohttp.ClientSession, prompt: str, due: float) -> None:
        plan, tally = self._plan, self._tally
        body = {
            "model": plan.service,
            "prompt": prompt,
            "max_tokens": plan.max_tokens,
            "temperature": plan.temperature,
        }
        headers = {"x-airboss-env": plan.env} if plan.env else {}
        if plan.api_key:
            headers["Authorization"] = f"Bearer {plan.api_key}"
        track = release = UNKNOWN
        try:
            # A redirect could leave this host, so none is followed.
            async with session.post(
                plan.url.rstrip("/") + plan.path, json=body, headers=headers, allow_redirects=False
            ) as response:
                track = response.headers.get("x-airboss-track", UNKNOWN)
                release = response.headers.get("x-airboss-release", UNKNOWN)
                text = (await response.read()).decode(errors="replace")
                tally.statuses[str(response.status)] += 1
                if response.status == 200:
                    tally.answer(track, release, time.monotonic() - due)
                else:
                    tally.fail(track, release, f"{response.status} {' '.join(text.split())}")
        except TimeoutError:
            tally.statuses["timeout"] += 1
            tally.fail(track, release, f"no answer within {plan.timeout_s:g} s")
        except aiohttp.ClientError as error:
            # Refused, reset, or broken off in the middle of the body: then the track is known.
            tally.statuses["connection"] += 1
            tally.fail(track, release, f"{type(error).__name__}: {error}")
        except asyncio.CancelledError:
            tally.statuses["cancelled"] += 1
            tally.fail(track, release, "the load was cancelled before the answer")
            raise

    async def _drop_in_flight(self) -> None:
        tasks = list(self._in_flight)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def is_loopback(host: str) -> bool:
    """A loopback address or `localhost`. Other names are not looked up: they can point anywhere, and change."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.split("%")[0]).is_loopback
    except ValueError:
        return False


def _outcomes(tally: _Tally, part: int) -> dict[str, Outcome]:
    answered: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    for key, count in tally.answered.items():
        answered[key[part]] += count
    for key, count in tally.failed.items():
        failed[key[part]] += count
    return {name: Outcome(answered[name], failed[name]) for name in sorted({*answered, *failed})}
