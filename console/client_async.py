"""AsyncEngineClient: the engine's API for one event loop; what the TUI's own actions use."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from console.wire import (
    EVENTS_IDLE_S,
    READ_TIMEOUT_S,
    VERB_TIMEOUT_S,
    Address,
    EngineAt,
    Query,
    alien,
    check,
    query,
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
    import httpx


class AsyncEngineClient(EngineAt):
    """The same for one event loop: what the TUI's own actions use."""

    def __init__(self, address: Address, *, timeout_s: float = READ_TIMEOUT_S) -> None:
        super().__init__(address, timeout_s=timeout_s)
        self._http: httpx.AsyncClient | None = None

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

    def _client(self) -> httpx.AsyncClient:
        if self._http is None:
            import httpx

            transport = httpx.AsyncHTTPTransport(uds=self.address.socket or None)
            self._http = httpx.AsyncClient(
                transport=transport, base_url=self.address.url, timeout=self._timeout(), trust_env=False
            )
        return self._http

    async def _fetch(self, path: str, params: Query | None = None) -> bytes:
        import httpx

        try:
            return check(await self._client().get(path, params=query(params)))
        except httpx.HTTPError as error:
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
        import httpx

        try:
            response = await self._client().post("/v1/ask", json=dict(body), timeout=self._timeout(timeout_s + 5.0))
            return dict(json.loads(check(response)))
        except httpx.HTTPError as error:
            reraise(error, self.address, timeout_s, acts=False)

    async def verb(self, request: VerbRequest, timeout_s: float = VERB_TIMEOUT_S) -> VerbResult:
        """Run a verb, or with `dry_run` say what it would do."""
        import httpx

        try:
            response = await self._client().post(
                "/v1/verbs",
                content=request.model_dump_json(),
                headers={"content-type": "application/json"},
                timeout=self._timeout(timeout_s),
            )
            return read(VerbResult, check(response))
        except httpx.HTTPError as error:
            reraise(error, self.address, timeout_s, acts=not request.dry_run)

    @asynccontextmanager
    async def _streaming(self, after: int) -> AsyncIterator[AsyncIterator[str]]:
        import httpx

        try:
            async with self._client().stream(
                "GET", "/v1/events", params={"after": str(after)}, timeout=self._timeout(EVENTS_IDLE_S)
            ) as response:
                if response.status_code >= 400:
                    await response.aread()
                    check(response)
                yield response.aiter_lines()
        except httpx.HTTPError as error:
            reraise(error, self.address, EVENTS_IDLE_S, acts=False)

    async def events(self, after: int = 0) -> AsyncIterator[Event]:
        """Events after sequence number `after`, as they happen; raises Unreachable when the stream breaks."""
        async with self._streaming(after) as lines:
            async for line in lines:
                event = sse_data(line)
                if event is not None:
                    yield event
