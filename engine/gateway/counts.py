"""What happened, counted once: per interval for the judge and the SLOs, in total for Prometheus.

A snapshot holds its own interval's numbers only, so that a lost one is a gap and never a wrong sum. Every backend of
the table has its row in every snapshot, also with zeros: silence is then a fact, not a guess.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple

from adapters.ports import Backend, Route
from engine.gateway.table import RoutingTable
from state.words import COUNTS_AND_BAD, BadClass, Track

LATENCY_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds in seconds of both histograms; above the last comes +Inf."""
BOUND_NAMES = (*(f"{bound:g}" for bound in LATENCY_BOUNDS), "+Inf")
KEPT_CALLERS = 16
OTHERS = "others"
KEPT_SNAPSHOTS = 600
"""Ten minutes at one a second."""


class RowKey(NamedTuple):
    """Whose numbers a row holds: one backend at one revision."""

    service: str
    env: str
    target: str
    track: str
    release_id: str
    rollout_id: str
    table_revision: int

    @classmethod
    def of(cls, table: RoutingTable, route: Route, backend: Backend) -> RowKey:
        """The row of `backend` on `route` under `table`."""
        return cls(
            route.service, route.env, route.target, backend.track, backend.release_id, route.rollout_id, table.revision
        )


@dataclass(slots=True)
class Histogram:
    """Seconds in `LATENCY_BOUNDS`; `counts` per bucket, not yet cumulative."""

    counts: list[int] = field(default_factory=lambda: [0] * len(BOUND_NAMES))
    sum: float = 0.0

    def observe(self, seconds: float) -> None:
        """Count one value."""
        self.counts[bisect_left(LATENCY_BOUNDS, seconds)] += 1
        self.sum += seconds

    def cumulative(self) -> dict[str, int]:
        """Bound → how many were at most that, as Prometheus counts: "+Inf" is all of them."""
        total, buckets = 0, {}
        for name, count in zip(BOUND_NAMES, self.counts, strict=True):
            total += count
            buckets[name] = total
        return buckets

    def as_json(self) -> dict[str, object]:
        """The histogram in a snapshot."""
        return {"buckets": self.cumulative(), "sum": round(self.sum, 6)}


@dataclass(frozen=True, slots=True)
class Result:
    """How one request ended. `ttft_s` is None when no byte reached the client; tokens are completion tokens."""

    outcome: BadClass
    duration_s: float
    ttft_s: float | None
    tokens_in: int
    tokens_out: int
    busy_s: float = 0.0
    """A replica's time it took: what the replica worked, divided among the requests it worked on."""
    is_dear: bool | None = None
    """Above the service's cost ceiling; None where there is none."""


@dataclass(slots=True)
class Row:
    """The numbers of one backend, of an interval or in total. `requests` are those that count."""

    requests: int = 0
    errors: int = 0
    slow: int = 0
    codes: dict[BadClass, int] = field(default_factory=lambda: dict.fromkeys(BadClass, 0))
    latency: Histogram = field(default_factory=Histogram)
    ttft: Histogram = field(default_factory=Histogram)
    tokens_in: int = 0
    tokens: int = 0
    attempt_failures: int = 0
    checked: int = 0
    failed: int = 0
    """Of the `checked` answers, those found wanting."""
    priced: int = 0
    dear: int = 0
    """Of the `priced` requests, those above the cost ceiling."""
    busy_s: float = 0.0
    unsafe: dict[str, int] = field(default_factory=dict)
    """Answers in which a safety check found something, by a digest of the caller; a few callers are enough to know."""

    def add(self, result: Result, slow_ms: float) -> None:
        """Count one request that ended."""
        counts, is_bad = COUNTS_AND_BAD[result.outcome]
        self.codes[result.outcome] += 1
        self.tokens_in += result.tokens_in
        self.tokens += result.tokens_out
        if not counts:
            return
        self.requests += 1
        self.errors += is_bad
        self.slow += result.duration_s * 1000 > slow_ms
        self.latency.observe(result.duration_s)
        if result.ttft_s is not None:
            self.ttft.observe(result.ttft_s)
        self.busy_s += result.busy_s
        if result.is_dear is not None:
            self.priced += 1
            self.dear += result.is_dear

    def as_json(self, key: RowKey) -> dict[str, object]:
        """The row in a snapshot."""
        return {
            **key._asdict(),
            "requests": self.requests,
            "errors": self.errors,
            "slow": self.slow,
            "codes": {outcome.value: count for outcome, count in self.codes.items()},
            "latency": self.latency.as_json(),
            "ttft": self.ttft.as_json(),
            "tokens": self.tokens,
            "tokens_in": self.tokens_in,
            "attempt_failures": self.attempt_failures,
            "checked": self.checked,
            "failed": self.failed,
            "priced": self.priced,
            "dear": self.dear,
            "busy_s": round(self.busy_s, 6),
            "unsafe": self.unsafe,
        }


class TotalKey(NamedTuple):
    """The labels of a Prometheus series."""

    service: str
    env: str
    release: str
    track: str


class Counts:
    """One worker's counters: the open interval, the last closed ones, and the totals since its start."""

    def __init__(self, boot_id: str, now: float) -> None:
        self.boot_id = boot_id
        self.totals: dict[TotalKey, Row] = {}
        self._served: tuple[RowKey, ...] = ()
        self._open: dict[RowKey, Row] = {}
        self._opened_at = now
        self._seq = 0
        self._kept: deque[tuple[int, str]] = deque(maxlen=KEPT_SNAPSHOTS)
        """Texts, not values: ten minutes of many routes would be a hundred megabytes of small objects."""

    def serve(self, table: RoutingTable) -> None:
        """Have a row, at zero, for every backend of `table` from now on."""
        self._served = tuple(
            RowKey.of(table, route, backend)
            for route in table.routes
            for backend in route.backends
            if backend.track != Track.SHADOW
        )
        for key in self._served:
            self._rows(key)

    def record(self, key: RowKey, result: Result, slow_ms: float) -> None:
        """Count a request once, under the backend that answered it."""
        for row in self._rows(key):
            row.add(result, slow_ms)

    def attempt_failed(self, key: RowKey) -> None:
        """Note an attempt on a backend that another one made good."""
        for row in self._rows(key):
            row.attempt_failures += 1

    def unsafe(self, key: RowKey, caller: str) -> None:
        """Note an answer to `caller` in which a safety check found something."""
        digest = blake2b(caller.encode(errors="surrogatepass"), digest_size=4).hexdigest()
        for row in self._rows(key):
            name = digest if digest in row.unsafe or len(row.unsafe) < KEPT_CALLERS else OTHERS
            row.unsafe[name] = row.unsafe.get(name, 0) + 1

    def checked(self, key: RowKey, *, is_good: bool) -> None:
        """Count the word on the quality of an answer of `key`, in the interval in which it was spoken."""
        for row in self._rows(key):
            row.checked += 1
            row.failed += not is_good

    def close_interval(self, now: float) -> str:
        """End the open interval at `now` (Unix seconds); keep its snapshot and return it as a line of JSON."""
        t0, t1 = (
            self._opened_at,
            max(now, self._opened_at),
        )  # a clock set back makes an empty interval, not a negative one
        self._seq += 1
        rows = [row.as_json(key) for key, row in self._open.items()]
        snapshot = {"boot_id": self.boot_id, "seq": self._seq, "t0": t0, "t1": t1, "rows": rows}
        text = json.dumps(snapshot, separators=(",", ":"))
        self._kept.append((self._seq, text))
        self._open, self._opened_at = {}, now
        for key in self._served:
            self._open[key] = Row()
        return text

    def after(self, seq: int) -> str:
        """The kept snapshots later than `seq`, as `{"boot_id", "snapshots"}` in JSON."""
        return f'{{"boot_id":{json.dumps(self.boot_id)},"snapshots":[{",".join(t for n, t in self._kept if n > seq)}]}}'

    def _rows(self, key: RowKey) -> Iterable[Row]:
        row = self._open.get(key)
        if row is None:
            row = self._open[key] = Row()
        label = TotalKey(key.service, key.env, key.release_id, key.track)
        total = self.totals.get(label)
        if total is None:
            total = self.totals[label] = Row()
        return row, total
