"""EngineClient: the engine's API over its Unix socket (or a URL).

Every call has a deadline. What goes wrong comes out as an AirbossError with the way out in its hint: an engine that is
not there is `Unreachable`, a verb whose answer did not come is `TimedOut`, and an error the engine put on the wire is
raised as the class it was there. httpx is imported on first use, so that `--help` does not pay for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
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
from engine.api.lines import MEDIA_TYPE
from engine.api.schemas import (
    AlertView,
    Event,
    EventView,
    FleetRow,
    LineageNode,
    LogChunk,
    ReleaseView,
    ReplicaView,
    RolloutView,
    RunView,
    SloView,
    Snapshot,
    StatusView,
    VerbRequest,
    VerbResult,
)
from state.paths import Paths

if TYPE_CHECKING:
    import httpx

    from console.client_async import AsyncEngineClient
    from console.rows import Known


class EngineClient(EngineAt):
    """A blocking client. Not for sharing between threads; make one for each."""

    def __init__(self, address: Address, *, timeout_s: float = READ_TIMEOUT_S) -> None:
        super().__init__(address, timeout_s=timeout_s)
        self._http: httpx.Client | None = None

    @classmethod
    def at_socket(cls, path: Path | str, *, timeout_s: float = READ_TIMEOUT_S) -> EngineClient:
        """The engine that listens on the Unix socket `path`."""
        return cls(Address(socket=str(path)), timeout_s=timeout_s)

    @classmethod
    def at_url(cls, url: str, *, timeout_s: float = READ_TIMEOUT_S) -> EngineClient:
        """An engine by URL: `http://host:port`, or `unix:///path/engine.sock`."""
        if url.startswith("unix:"):
            return cls.at_socket(url.removeprefix("unix:").replace("///", "/", 1), timeout_s=timeout_s)
        return cls(Address(url=url.rstrip("/")), timeout_s=timeout_s)

    @classmethod
    def for_workspace(cls, root: Path, *, timeout_s: float = READ_TIMEOUT_S) -> EngineClient:
        """The engine of the workspace at `root`."""
        return cls.at_socket(Paths.of(root).live_engine_socket(), timeout_s=timeout_s)

    def asynchronous(self) -> AsyncEngineClient:
        """A client of the same engine for an event loop."""
        from console.client_async import AsyncEngineClient

        return AsyncEngineClient(self.address, timeout_s=self.timeout_s)

    def close(self) -> None:
        """Close the connections."""
        if self._http is not None:
            self._http.close()
            self._http = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _client(self) -> httpx.Client:
        if self._http is None:
            import httpx

            transport = httpx.HTTPTransport(uds=self.address.socket or None)
            self._http = httpx.Client(
                transport=transport, base_url=self.address.url, timeout=self._timeout(), trust_env=False
            )
        return self._http

    def _fetch(self, path: str, params: Query | None = None) -> bytes:
        return check(self._answer(path, params))

    def _answer(self, path: str, params: Query | None, headers: Mapping[str, str] | None = None) -> httpx.Response:
        import httpx

        try:
            return self._client().get(path, params=query(params), headers=headers)
        except httpx.HTTPError as error:
            reraise(error, self.address, self.timeout_s, acts=False)

    def get(self, path: str, params: Query | None = None) -> Any:
        """The JSON at `path` (`/v1/fleet`), decoded."""
        try:
            return json.loads(self._fetch(path, params))
        except ValueError as error:
            raise alien(error) from error

    def status(self) -> StatusView:
        """One screen of health."""
        return read(StatusView, self._fetch("/v1/status"))

    def snapshot(self, known: Known | None = None) -> Snapshot:
        """Everything the console's first screens show; of sections that `known` has already only the word that they stand."""
        if known is None:
            return read(Snapshot, self._fetch("/v1/snapshot"))
        answer = self._answer(
            "/v1/snapshot", {"have": known.have or None}, {"accept": f"{MEDIA_TYPE}, application/json"}
        )
        body = check(answer)
        # An engine of before knows no lines.
        return known.read(body) if MEDIA_TYPE in answer.headers.get("content-type", "") else read(Snapshot, body)

    def fleet(self) -> list[FleetRow]:
        """Services by environment."""
        return read_list(FleetRow, self.get("/v1/fleet"))

    def rollouts(self, service: str | None = None, env: str | None = None) -> list[RolloutView]:
        """Rollouts, newest first."""
        return read_list(RolloutView, self.get("/v1/rollouts", {"service": service, "env": env}))

    def rollout(self, rollout_id: str) -> RolloutView:
        """One rollout with its plans and events."""
        return read(RolloutView, self._fetch(f"/v1/rollouts/{rollout_id}"))

    def runs(self) -> list[RunView]:
        """Pipeline runs, newest first."""
        return read_list(RunView, self.get("/v1/runs"))

    def run(self, run_id: str) -> RunView:
        """One pipeline run."""
        return read(RunView, self._fetch(f"/v1/runs/{run_id}"))

    def log(self, run: str, stage: str, offset: int = 0) -> LogChunk:
        """The log of a run's stage from byte `offset`."""
        return read(LogChunk, self._fetch(f"/v1/runs/{run}/log/{stage}", {"offset": offset}))

    def releases(self) -> list[ReleaseView]:
        """Releases, newest first."""
        return read_list(ReleaseView, self.get("/v1/releases"))

    def release(self, release_id: str) -> ReleaseView:
        """One release."""
        return read(ReleaseView, self._fetch(f"/v1/releases/{release_id}"))

    def alerts(self, all: bool = False) -> list[AlertView]:
        """Active alerts, or with `all` their history too."""
        return read_list(AlertView, self.get("/v1/alerts", {"all": all or None}))

    def slos(self) -> list[SloView]:
        """Objectives and how they stand."""
        return read_list(SloView, self.get("/v1/slos"))

    def serving(self) -> list[ReplicaView]:
        """Processes that serve."""
        return read_list(ReplicaView, self.get("/v1/serving"))

    def audit(self, after: int = 0, limit: int | None = None, ref: str | None = None) -> list[EventView]:
        """Audit rows after id `after`."""
        return read_list(EventView, self.get("/v1/audit", {"after": after or None, "limit": limit, "ref": ref}))

    def audit_lines(self, *, after: int | None = None, before: int | None = None, limit: int) -> list[bytes]:
        """Audit rows as JSON, a line each, oldest first: those after an id, the newest before one, or the newest."""
        query = {"after": after, "before": before, "limit": limit}
        return check(self._answer("/v1/audit", query, {"accept": MEDIA_TYPE})).splitlines()

    def lineage(self, ref: str, forward: bool = False) -> LineageNode:
        """What `ref` was made from, or forward: what was made from it."""
        return read(LineageNode, self._fetch("/v1/lineage", {"ref": ref, "forward": forward}))

    def verb(self, request: VerbRequest, timeout_s: float = VERB_TIMEOUT_S) -> VerbResult:
        """Run a verb, or with `dry_run` say what it would do."""
        import httpx

        try:
            response = self._client().post(
                "/v1/verbs",
                content=request.model_dump_json(),
                headers={"content-type": "application/json"},
                timeout=self._timeout(timeout_s),
            )
            return read(VerbResult, check(response))
        except httpx.HTTPError as error:
            keyed = bool(request.idempotency_key)
            reraise(error, self.address, timeout_s, acts=not request.dry_run, is_keyed=keyed)

    def ask(self, body: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """Have the engine ask one track, release or replica; the answer with its facts."""
        import httpx

        try:
            response = check(self._client().post("/v1/ask", json=dict(body), timeout=self._timeout(timeout_s + 5.0)))
            return dict(json.loads(response))
        except httpx.HTTPError as error:
            reraise(error, self.address, timeout_s, acts=False)

    def tell_demo(self, facts: Mapping[str, Any]) -> None:
        """Put the demo's progress into the engine's status; a workspace that is no demo's ignores it."""
        import httpx

        try:
            check(self._client().put("/v1/demo", json=dict(facts)))
        except httpx.HTTPError as error:
            reraise(error, self.address, self.timeout_s, acts=False)

    @contextmanager
    def _streaming(self, after: int) -> Iterator[Iterator[str]]:
        import httpx

        try:
            with self._client().stream(
                "GET", "/v1/events", params={"after": str(after)}, timeout=self._timeout(EVENTS_IDLE_S)
            ) as response:
                if response.status_code >= 400:
                    response.read()
                    check(response)
                yield response.iter_lines()
        except httpx.HTTPError as error:
            reraise(error, self.address, EVENTS_IDLE_S, acts=False)

    def events(self, after: int = 0) -> Iterator[Event]:
        """Events after sequence number `after`, as they happen; raises Unreachable when the stream breaks."""
        with self._streaming(after) as lines:
            for line in lines:
                event = sse_data(line)
                if event is not None:
                    yield event
