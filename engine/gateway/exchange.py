"""One request on its way: what it asked, fixed at admission, and what became of it."""

from __future__ import annotations

import functools
import json
import time
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii

from adapters.ports import Backend, Route
from engine.gateway.access.admission import ACCESS_REJECTIONS, Admission
from engine.gateway.counts import Counts, Result, RowKey
from engine.gateway.ids import RequestId, new_request_id
from engine.gateway.ledger import Spool
from engine.gateway.relayed import Relayed
from engine.gateway.routing.compare import Sample
from engine.gateway.routing.traffic import Asking
from engine.gateway.table import RoutingTable
from state.words import BadClass


@dataclass(frozen=True, slots=True)
class Call:
    """A request that was read and routed. `path` is what the replica is asked, query included."""

    table: RoutingTable
    route: Route
    chosen: Backend
    path: str
    lines: bytes
    """Its headers, as the replica gets them, before those that differ between attempts."""
    body: bytes
    client_id: str
    is_openai: bool
    """Its stream must end with `[DONE]`."""
    deadline_s: float
    """From admission to the last byte: the route's, or the shorter one the client asked for."""
    asking: Asking
    answer_headers: tuple[tuple[str, str], ...] = ()
    """What the answer says beside the usual: another service that answered, a session's cookie."""
    shed: str = ""
    """Why it is turned away, where its class of request must wait."""
    is_probe: bool = False
    """The engine's own probe: served like any request, and counted as none."""
    admission: Admission | None = None
    """What the front desk found out; None where it has nothing to check."""

    @property
    def is_patient(self) -> bool:
        """It waits as long as the route allows: a deadline that passes is the service's doing, not a hasty client's."""
        return self.deadline_s >= self.route.deadline_s


@dataclass(slots=True, eq=False)
class Exchange:
    """What became of a call so far. `backend` is the one that answers, or would."""

    call: Call
    at: float
    started: float
    """On the performance clock."""
    backend: Backend
    request_id: RequestId
    id_text: str
    """The request's id as it is written everywhere."""
    attempts: int = 0
    sample: Sample | None = None
    """What is kept of the answer; None unless it is shown to a shadow or checked as well."""
    spawn_id: str = ""
    """The replica asked last."""
    outcome: BadClass = BadClass.SERVER_ERROR
    code: int = 0
    ttft_s: float | None = None
    tokens_in: int = 0
    tokens_out: int = 0
    busy_s: float = 0.0
    """What it took so far of replicas' time."""
    response: Relayed | None = None
    """Set once a byte may have reached the client: from then on nothing can be taken back."""
    is_writing: bool = False
    """Waiting for the client to take bytes; a deadline that passes now is the client's."""
    is_event_stream: bool = False
    """What is passed on are server-sent events."""
    is_between_events: bool = False
    """What was passed on ends with a whole server-sent event."""

    @classmethod
    def admit(cls, call: Call, now: float, started: float) -> Exchange:
        """The exchange of a call admitted now."""
        request_id = new_request_id(now, call.chosen.release_id, call.table.revision)
        return cls(call, now, started, call.chosen, request_id, str(request_id))

    def answered_by(self, backend: Backend) -> None:
        """From here on `backend` answers."""
        if backend is not self.backend:
            self.backend = backend
            self.request_id = self.request_id.of_release(backend.release_id)
            self.id_text = str(self.request_id)

    def first_byte(self) -> None:
        """The answer's first byte is here."""
        if self.ttft_s is None:
            self.ttft_s = time.perf_counter() - self.started

    def remaining_ms(self) -> int:
        """What is left of the deadline, at least 1."""
        spent_s = time.perf_counter() - self.started
        return max(1, int((self.call.deadline_s - spent_s) * 1000))

    def own_headers(self) -> dict[str, str]:
        """What the gateway says of an answer."""
        headers = {
            "X-Request-Id": self.id_text,
            "X-Airboss-Release": self.backend.release_id,
            "X-Airboss-Track": self.backend.track,
            "X-Airboss-Revision": str(self.call.table.revision),
        }
        if self.call.admission is not None:
            headers.update(self.call.admission.answer_headers)
        return headers

    def own_lines(self) -> bytes:
        """The same as header lines, for an answer that is passed on."""
        call, backend = self.call, self.backend
        lines = (
            f"X-Request-Id: {self.id_text}\r\nX-Airboss-Release: {backend.release_id}\r\n"
            f"X-Airboss-Track: {backend.track}\r\nX-Airboss-Revision: {call.table.revision}\r\n"
        )
        if call.admission is not None or call.answer_headers:
            said = [
                *(call.admission.answer_headers.items() if call.admission is not None else ()),
                *call.answer_headers,
            ]
            lines += "".join([f"{name}: {value}\r\n" for name, value in said])
        return lines.encode()


REJECTIONS = (
    "max_inflight", "no_healthy_replica", "no_table", "shed_interactive", "shed_batch", "shed_background", "unknown_env",
    "unknown_service", "unknown_path", "bad_method", "bad_json", "body_too_large", "body_too_slow", "bad_timeout",
    "shadow",
    *ACCESS_REJECTIONS,
)  # fmt: skip
"""Why this gateway, and no replica, refused a request. Those up to shed_background are ours; the rest are the client's."""


class Recorder:
    """Where ended exchanges are written down: the counters and the ledger."""

    def __init__(self, counts: Counts, ledger: Spool) -> None:
        self.counts = counts
        self.ledger = ledger
        self.rejections: dict[str, int] = dict.fromkeys(REJECTIONS, 0)
        self.probes: dict[BadClass, int] = dict.fromkeys(BadClass, 0)

    def rejected(self, reason: str) -> None:
        """Count a refusal of our own. One that was routed is counted as a request besides."""
        self.rejections[reason] += 1

    def attempt_failed(self, exchange: Exchange, backend: Backend) -> None:
        """An attempt on `backend` failed and another one follows."""
        if not exchange.call.is_probe:
            self.counts.attempt_failed(RowKey.of(exchange.call.table, exchange.call.route, backend))

    def ended(self, exchange: Exchange) -> None:
        """Count the request, once, and put its line in the ledger. A probe is only counted as a probe."""
        admission = exchange.call.admission
        if admission is not None:
            admission.ended(exchange)
        if exchange.call.is_probe:
            self.probes[exchange.outcome] += 1
            return
        call, route = exchange.call, exchange.call.route
        duration_s = time.perf_counter() - exchange.started
        cost = route.measures.cost if route.measures is not None and exchange.outcome is BadClass.OK else None
        is_dear = cost.is_dear(exchange.busy_s, exchange.tokens_out) if cost is not None else None
        result = Result(
            exchange.outcome,
            duration_s,
            exchange.ttft_s,
            exchange.tokens_in,
            exchange.tokens_out,
            exchange.busy_s,
            is_dear,
        )
        key = RowKey.of(call.table, route, exchange.backend)
        self.counts.record(key, result, route.slow_ms)
        if admission is not None and admission.review is not None and admission.review.is_answer_unsafe:
            self.counts.unsafe(key, call.client_id)
        self.ledger.add_text(_ledger_line(exchange, _whose(key), duration_s))


@functools.lru_cache(maxsize=4096)
def _whose(key: RowKey) -> str:
    """The part of a ledger line that all requests of a row have in common."""
    fields = {
        "service": key.service,
        "env": key.env,
        "release": key.release_id,
        "track": key.track,
        "rollout_id": key.rollout_id,
        "revision": key.table_revision,
    }
    return json.dumps(fields, separators=(",", ":"))[1:-1]


def _ledger_line(exchange: Exchange, whose: str, duration_s: float) -> str:
    """One request as JSON. Put together by hand: an encoder for each line cost more than all the counting."""
    call = exchange.call
    notes = call.admission.notes() if call.admission is not None else None
    more = "," + json.dumps(notes, separators=(",", ":"))[1:-1] if notes else ""
    ttft = "null" if exchange.ttft_s is None else f"{exchange.ttft_s * 1000:.2f}"
    return (
        f'{{"id":"{exchange.id_text}","at":{exchange.at:.3f},{whose},"class":"{exchange.outcome.value}"'
        f',"code":{exchange.code},"latency_ms":{duration_s * 1000:.2f},"ttft_ms":{ttft},"attempts":{exchange.attempts}'
        f',"client_id":{encode_basestring_ascii(call.client_id)}{more},"tokens":{exchange.tokens_out}}}'
    )
