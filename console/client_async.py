"""AsyncEngineClient: the engine's API for one event loop; what the TUI's own actions use."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from console.wire import (
    EVENTS_IDLE_S,
    JSON,
    KEPT_OPEN_S,
    READ_TIMEOUT_S,
    VERB_TIMEOUT_S,
    Address,
    EngineAt,
    Query,
    alien,
    check,
    faults,
    read,
    read_list,
    reraise,
    sse_data,
)
from engine.api.schemas import (
    AlertView,
    Event,
    EventView,
    LineageNode,
    LogChunk,
    RolloutView,
    Snapshot,
    VerbRequest,
    VerbResult,
)

if TYPE_CHECKING:
    import httpcore


class AsyncEngineClient(EngineAt):
    """The same for one event loop: what the TUI's own actions use."""

    def __init__(self, address: Address, *, timeout_s: float = READ_TIMEOUT_S) -> None:
        super().__init__(address, timeout_s=timeout_s)
        self._http: httpcore.AsyncConnectionPool | None = None

    async def close(self) -> None:
        """Close the connections."""
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    def _pool(self) -> httpcore.AsyncConnectionPool:
        if self._http is None:
            import httpcore

            self._http = httpcore.AsyncConnectionPool(uds=self.address.socket or None, keepalive_expiry=KEPT_OPEN_S)
        return self._http

    async def _fetch(self, path: str, params: Query | None = None) -> bytes:
        try:
            answer = await self._pool().request("GET", self._url(path, params), extensions=self._within())
            return check(answer, path)
        except faults() as error:
            reraise(error, self.address, self.timeout_s, acts=False)

    async def get(self, path: str, params: Query | None = None) -> Any:
        """The JSON at `path`, decoded."""
        try:
            return json.loads(await self._fetch(path, params))
        except ValueError as error:
            raise alien(error) from error

    async def snapshot(self) -> Snapshot:
        """Everything the console's first screens show."""
        return read(Snapshot, await self._fetch("/v1/snapshot"))

    async def rollout(self, rollout_id: str) -> RolloutView:
        """One rollout with its plans and events."""
        return read(RolloutView, await self._fetch(f"/v1/rollouts/{rollout_id}"))

    async def alerts(self, all: bool = False) -> list[AlertView]:
        """Active alerts, or with `all` their history too."""
        return read_list(AlertView, await self.get("/v1/alerts", {"all": all or None}))

    async def audit(self, after: int = 0, limit: int | None = None, ref: str | None = None) -> list[EventView]:
        """Audit rows after id `after`."""
        return read_list(EventView, await self.get("/v1/audit", {"after": after or None, "limit": limit, "ref": ref}))

    async def log(self, run: str, stage: str, offset: int = 0) -> LogChunk:
        """The log of a run's stage from byte `offset`."""
        return read(LogChunk, await self._fetch(f"/v1/runs/{run}/log/{stage}", {"offset": offset}))

    async def lineage(self, ref: str, forward: bool = False) -> LineageNode:
        """What `ref` was made from, or forward: what was made from it."""
        return read(LineageNode, await self._fetch("/v1/lineage", {"ref": ref, "forward": forward}))

    async def ask(self, body: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """Have the engine ask one track, release or replica; the answer with its facts."""
        try:
            answer = await self._pool().request(
                "POST", self._url("/v1/ask"), headers=JSON, content=json.dumps(dict(body)).encode(),
                extensions=self._within(timeout_s + 5.0),
            )  # fmt: skip
            return dict(json.loads(check(answer, "/v1/ask")))
        except faults() as error:
            reraise(error, self.address, timeout_s, acts=False)

    async def verb(self, request: VerbRequest, timeout_s: float = VERB_TIMEOUT_S) -> VerbResult:
        """Run a verb, or with `dry_run` say what it would do."""
        try:
            response = await self._pool().request(
                "POST", self._url("/v1/verbs"), headers=JSON, content=request.model_dump_json().encode(),
                extensions=self._within(timeout_s),
            )  # fmt: skip
            return read(VerbResult, check(response, "/v1/verbs"))
        except faults() as error:
            reraise(error, self.address, timeout_s, acts=not request.dry_run)

    @asynccontextmanager
    async def _streaming(self, after: int) -> AsyncIterator[AsyncIterator[bytes]]:
        try:
            async with self._pool().stream(
                "GET", self._url("/v1/events", {"after": after}), extensions=self._within(EVENTS_IDLE_S)
            ) as response:
                if response.status >= 400:
                    await response.aread()
                    check(response, "/v1/events")
                yield response.aiter_stream()
        except faults() as error:
            reraise(error, self.address, EVENTS_IDLE_S, acts=False)

    async def events(self, after: int = 0) -> AsyncIterator[Event]:
        """Events after sequence number `after`, as they happen; raises Unreachable when the stream breaks."""
        rest = b""
        async with self._streaming(after) as pieces:
            async for piece in pieces:
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    event = sse_data(line.decode())
                    if event is not None:
                        yield event
