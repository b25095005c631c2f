"""The prober: one real token through the public address, as a user would ask for it.

A gateway that is down counts nothing; the prober is who notices. Its requests carry `x-airboss-probe: 1`, are served like
any other and are not counted as users' (the gateway leaves them out of its counts and its ledger).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import httpx
from sqlmodel import Session

from adapters.local.probing import Visitor
from engine.observe.conditions import ProbeFact
from engine.observe.ingest import minute_row
from engine.observe.outbound import open_client
from state.pinned import pinned_context
from state.store import Store
from state.words import UsageError

PROBE_HEADER = "x-airboss-probe"
MAX_DEADLINE_S = 10.0
"""One token must come sooner than this, whatever whole answers are allowed."""


@dataclass(frozen=True, slots=True)
class ProbeTarget:
    """A service that has something live, and how it is probed."""

    service: str
    env: str
    interval_s: float
    deadline_s: float


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """One probe. `kind` is ok, unreachable (no HTTP answer), deadline or bad (an answer that is no completion)."""

    at: float
    kind: str
    error: str
    latency_ms: float

    @property
    def is_ok(self) -> bool:
        """A token came back in time."""
        return self.kind == "ok"


class Prober:
    """Probes each target on its own interval, one probe at a time a target, and records every result."""

    def __init__(
        self,
        store: Store,
        base_url: Callable[[], str | None],
        targets: Callable[[], Awaitable[Sequence[ProbeTarget]]],
        *,
        clock: Callable[[], float] = time.time,
        visitor: Callable[[], Visitor] = Visitor,
    ) -> None:
        self._store = store
        self._visitor = visitor
        self._served_with: tuple[Visitor, int] | None = None
        self._retired: list[httpx.AsyncClient] = []
        self._one_at_a_time = asyncio.Lock()
        self._base_url = base_url
        self._targets = targets
        self._clock = clock
        self._client: httpx.AsyncClient | None = None
        self._due: dict[tuple[str, str], float] = {}
        self._running: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._facts: dict[tuple[str, str], ProbeFact] = {}
        self.last: dict[tuple[str, str], ProbeResult] = {}

    async def tick(self) -> None:
        """Start what is due. Raises what a probe that ended could not record (the store's trouble, say)."""
        base_url = self._base_url()
        targets = {(t.service, t.env): t for t in await self._targets()} if base_url else {}
        for key, task in list(self._running.items()):
            if task.done():
                del self._running[key]
                task.result()
        for gone in self._facts.keys() - targets.keys() - self._running.keys():
            del self._facts[gone]  # nothing is live there any more: no promise to watch
        now = time.monotonic()
        for key, target in targets.items():
            if key not in self._running and now >= self._due.get(key, 0.0):
                self._due[key] = now + target.interval_s
                self._running[key] = asyncio.create_task(self._probe_and_record(str(base_url), target))

    async def drain(self) -> None:
        """Wait for the probes under way."""
        await asyncio.gather(*self._running.values())

    def facts(self) -> tuple[ProbeFact, ...]:
        """How each target has been found lately."""
        return tuple(self._facts.values())

    async def close(self) -> None:
        """Stop the probes under way and close the connection."""
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)
        self._running.clear()
        for client in (*self._retired, self._client):
            if client is not None:
                await client.aclose()
        self._retired.clear()
        self._client = None

    async def _probe_and_record(self, base_url: str, target: ProbeTarget) -> None:
        result = await self.probe(base_url, target)
        key = (target.service, target.env)
        before = self._facts.get(key)
        in_row = 0 if result.is_ok else (before.failures_in_row if before else 0) + 1
        self._facts[key] = ProbeFact(target.service, target.env, in_row, result.kind, result.error)
        self.last[key] = result
        await self._store.write(lambda session: record_probe(session, target.service, target.env, result))

    async def probe(self, base_url: str, target: ProbeTarget) -> ProbeResult:
        """Ask for one token and judge the answer."""
        visitor = self._visitor()
        deadline_s = min(target.deadline_s, MAX_DEADLINE_S)
        began, at = time.monotonic(), self._clock()
        kind, error = "ok", ""
        try:
            async with asyncio.timeout(deadline_s):
                client = await self._client_for(visitor)
                response = await client.post(
                    f"{base_url.rstrip('/')}/{target.env}/{target.service}/v1/completions",
                    json={"model": target.service, "prompt": "Hello", "max_tokens": 1, "temperature": 0},
                    headers={PROBE_HEADER: "1", **({"Authorization": f"Bearer {visitor.key}"} if visitor.key else {})},
                    timeout=deadline_s,
                )
            error = _fault(response)
            kind = "bad" if error else "ok"
        except (TimeoutError, httpx.ReadTimeout, httpx.WriteTimeout, httpx.PoolTimeout):
            kind, error = "deadline", f"no token within {deadline_s:g} s"
        except (httpx.HTTPError, UsageError) as trouble:
            kind, error = "unreachable", f"{type(trouble).__name__}: {trouble}".rstrip(": ")
        return ProbeResult(at, kind, error, (time.monotonic() - began) * 1000)

    async def _client_for(self, visitor: Visitor) -> httpx.AsyncClient:
        """A client that knows the gateway's certificate as it is now; another one once the file has changed."""
        server = visitor.server
        served_with = visitor, server.stat().st_mtime_ns if server is not None and server.exists() else 0
        async with self._one_at_a_time:
            if self._client is None or self._served_with != served_with:
                tls = {}
                if server is not None:
                    tls["verify"] = await asyncio.to_thread(pinned_context, server, visitor.client)
                if self._client is not None:
                    self._retired.append(self._client)  # a probe may still be under way on it
                # A new connection a probe: a kept one may go on being served by a worker that takes no new users.
                limits = httpx.Limits(max_keepalive_connections=0)
                self._client = await open_client(MAX_DEADLINE_S, trust_env=False, limits=limits, **tls)
                self._served_with = served_with
            return self._client


def _fault(response: httpx.Response) -> str:
    """What is wrong with the answer; "" when it is a completion."""
    if response.status_code != 200:
        return f"it answered {response.status_code}"
    try:
        body = response.json()
    except ValueError:
        return "it answered 200 without JSON"
    choices = body.get("choices") if isinstance(body, Mapping) else None
    return "" if choices else "it answered 200 without a completion"


def record_probe(session: Session, service: str, env: str, result: ProbeResult) -> None:
    """Count a probe in its minute."""
    row = minute_row(session, service, env, int(result.at // 60))
    row.probes += 1
    row.probe_errors += not result.is_ok
