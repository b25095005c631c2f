"""EngineClient: the engine's API over its Unix socket (or a URL).

Every call has a deadline. What goes wrong comes out as an AirbossError with the way out in its hint: an engine that is
not there is `Unreachable`, a verb whose answer did not come is `TimedOut`, and an error the engine put on the wire is
raised as the class it was there. httpcore is imported on first use, so that `--help` does not pay for it.
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
    JSON,
    KEPT_OPEN_S,
    READ_TIMEOUT_S,
    VERB_TIMEOUT_S,
    Address,
    EngineAt,
    Headers,
    Query,
    alien,
    check,
    faults,
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
    import httpcore

    from console.client_async import AsyncEngineClient
    from console.rows import Known


class EngineClient(EngineAt):
    """A blocking client. Not for sharing between threads; make one for each."""

    def __init__(self, address: Address, *, timeout_s: float = READ_TIMEOUT_S) -> None:
        super().__init__(address, timeout_s=timeout_s)
        self._http: httpcore.ConnectionPool | None = None

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

    def _pool(self) -> httpcore.ConnectionPool:
        if self._http is None:
            import httpcore

            self._http = httpcore.ConnectionPool(uds=self.address.socket or None, keepalive_expiry=KEPT_OPEN_S)
        return self._http

    def _fetch(self, path: str, params: Query | None = None) -> bytes:
        return check(self._answer(path, params), path)

    def _answer(self, path: str, params: Query | None, headers: Headers | None = None) -> httpcore.Response:
        try:
            return self._pool().request("GET", self._url(path, params), headers=headers, extensions=self._within())
        except faults() as error:
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
        body = check(answer, "/v1/snapshot")
        # An engine of before knows no lines.
        is_lines = any(
            name.lower() == b"content-type" and MEDIA_TYPE.encode() in value for name, value in answer.headers
        )
        return known.read(body) if is_lines else read(Snapshot, body)

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
        return check(self._answer("/v1/audit", query, {"accept": MEDIA_TYPE}), "/v1/audit").splitlines()

    def lineage(self, ref: str, forward: bool = False) -> LineageNode:
        """What `ref` was made from, or forward: what was made from it."""
        return read(LineageNode, self._fetch("/v1/lineage", {"ref": ref, "forward": forward}))

    def verb(self, request: VerbRequest, timeout_s: float = VERB_TIMEOUT_S) -> VerbResult:
        """Run a verb, or with `dry_run` say what it would do."""
        try:
            response = self._pool().request(
                "POST", self._url("/v1/verbs"), headers=JSON, content=request.model_dump_json().encode(),
                extensions=self._within(timeout_s),
            )  # fmt: skip
            return read(VerbResult, check(response, "/v1/verbs"))
        except faults() as error:
            keyed = bool(request.idempotency_key)
            reraise(error, self.address, timeout_s, acts=not request.dry_run, is_keyed=keyed)

    def ask(self, body: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """Have the engine ask one track, release or replica; the answer with its facts."""
        try:
            answer = self._pool().request(
                "POST", self._url("/v1/ask"), headers=JSON, content=json.dumps(dict(body)).encode(),
                extensions=self._within(timeout_s + 5.0),
            )  # fmt: skip
            response = check(answer, "/v1/ask")
            return dict(json.loads(response))
        except faults() as error:
            reraise(error, self.address, timeout_s, acts=False)

    def tell_demo(self, facts: Mapping[str, Any]) -> None:
        """Put the demo's progress into the engine's status; a workspace that is no demo's ignores it."""
        body = json.dumps(dict(facts)).encode()
        try:
            answer = self._pool().request(
                "PUT", self._url("/v1/demo"), headers=JSON, content=body, extensions=self._within()
            )
            check(answer, "/v1/demo")
        except faults() as error:
            reraise(error, self.address, self.timeout_s, acts=False)

    @contextmanager
    def _streaming(self, after: int) -> Iterator[Iterator[bytes]]:
        try:
            with self._pool().stream(
                "GET", self._url("/v1/events", {"after": after}), extensions=self._within(EVENTS_IDLE_S)
            ) as response:
                if response.status >= 400:
                    response.read()
                    check(response, "/v1/events")
                yield response.iter_stream()
        except faults() as error:
            reraise(error, self.address, EVENTS_IDLE_S, acts=False)

    def events(self, after: int = 0) -> Iterator[Event]:
        """Events after sequence number `after`, as they happen; raises Unreachable when the stream breaks."""
        rest = b""
        with self._streaming(after) as pieces:
            for piece in pieces:
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    event = sse_data(line.decode())
                    if event is not None:
                        yield event
