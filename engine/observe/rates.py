"""What a service does right now: requests per second, errors, quantiles, by track, from the newest rows. Pure.

A ratio of nothing is None, never 0; so is a quantile of nothing.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from engine.observe.fold import CountRow

WINDOW_S = 60.0
KEPT_S = 300.0


@dataclass(frozen=True, slots=True)
class TrackRates:
    """One track's last seconds. `share_pct` is its measured part of the service's requests."""

    release_id: str
    requests: int
    errors: int
    slow: int
    attempt_failures: int
    rps: float
    p95_ms: float | None
    error_ratio: float | None
    share_pct: float | None


@dataclass(frozen=True, slots=True)
class Rates:
    """A service's last `window_s` seconds. `age_s` is the age of the newest count, None when there is none."""

    window_s: float
    requests: int
    errors: int
    slow: int
    rps: float
    p95_ms: float | None
    error_ratio: float | None
    tokens_per_s: float
    age_s: float | None
    by_track: Mapping[str, TrackRates] = field(default_factory=dict)


def quantile(cumulative: Mapping[str, int], q: float) -> float | None:
    """The q-quantile of a Prometheus-style histogram (bound → how many were at most that), in the bounds' unit.

    Linear inside a bucket; a rank in the +Inf bucket gives the highest finite bound: Prometheus' `histogram_quantile`.
    """
    bounds = sorted((math.inf if le == "+Inf" else float(le), count) for le, count in cumulative.items())
    if not bounds or bounds[-1][1] <= 0:
        return None
    rank = q * bounds[-1][1]
    below_bound, below_count = 0.0, 0
    for bound, count in bounds:
        if count >= rank and count > below_count:
            if math.isinf(bound):
                return below_bound
            return below_bound + (bound - below_bound) * (rank - below_count) / (count - below_count)
        below_bound, below_count = (below_bound if math.isinf(bound) else bound), max(count, below_count)
    return below_bound


def p95_ms(rows: Iterable[CountRow]) -> float | None:
    """The 95th percentile of the rows' latencies together, milliseconds."""
    total: dict[str, int] = defaultdict(int)
    for row in rows:
        for le, count in row.latency.get("buckets", {}).items():
            total[le] += count
    seconds = quantile(total, 0.95)
    return None if seconds is None else seconds * 1000


def rates(rows: Iterable[CountRow], now: float, window_s: float = WINDOW_S, known_s: float | None = None) -> Rates:
    """The rates over [now − window_s, now]; `known_s` (how long counts have been coming) shortens a young window."""
    kept = [row for row in rows if row.t1 > now - window_s]
    span = max(1.0, min(window_s, window_s if known_s is None else known_s))
    by_track: dict[str, list[CountRow]] = defaultdict(list)
    for row in kept:
        by_track[row.track].append(row)
    requests, errors = sum(row.requests for row in kept), sum(row.errors for row in kept)
    return Rates(
        window_s=span,
        requests=requests,
        errors=errors,
        slow=sum(row.slow for row in kept),
        rps=requests / span,
        p95_ms=p95_ms(kept),
        error_ratio=errors / requests if requests else None,
        tokens_per_s=sum(row.tokens for row in kept) / span,
        age_s=max(0.0, now - max(row.t1 for row in kept)) if kept else None,
        by_track={track: _track_rates(found, requests, span) for track, found in sorted(by_track.items())},
    )


def _track_rates(rows: list[CountRow], all_requests: int, span: float) -> TrackRates:
    requests, errors = sum(row.requests for row in rows), sum(row.errors for row in rows)
    return TrackRates(
        release_id=max(rows, key=lambda row: (row.table_revision, row.t1)).release_id,
        requests=requests,
        errors=errors,
        slow=sum(row.slow for row in rows),
        attempt_failures=sum(row.attempt_failures for row in rows),
        rps=requests / span,
        p95_ms=p95_ms(rows),
        error_ratio=errors / requests if requests else None,
        share_pct=100 * requests / all_requests if all_requests else None,
    )


class Recent:
    """The newest rows in memory, by service, so that a screen costs no query."""

    def __init__(self, kept_s: float = KEPT_S) -> None:
        self._kept_s = kept_s
        self._rows: dict[tuple[str, str], deque[CountRow]] = defaultdict(deque)
        self._since: float | None = None
        self._version = 0
        self._asked: dict[tuple[str, str, float], tuple[int, float, Rates]] = {}

    def heard(self, t0: float) -> None:
        """Counts are known from `t0` on, though no row may say so (an idle service has none)."""
        self._since = t0 if self._since is None else min(self._since, t0)

    def add(self, rows: Iterable[CountRow]) -> None:
        """Take rows in, in any order, and let go of those that are too old beside the newest."""
        self._version += 1
        for row in rows:
            self.heard(row.t0)
            kept = self._rows[(row.service, row.env)]
            kept.append(row)
            while kept and kept[0].t1 < row.t1 - self._kept_s:
                kept.popleft()

    def rows(self, service: str, env: str, since: float) -> tuple[CountRow, ...]:
        """The rows of a service whose interval ended after `since`."""
        return tuple(row for row in self._rows.get((service, env), ()) if row.t1 > since)

    def rates(self, service: str, env: str, now: float, window_s: float = WINDOW_S) -> Rates:
        """`rates` of a service over the last `window_s` (at most what is kept); asked again within a second, the same."""
        key = (service, env, window_s)
        version, at, found = self._asked.get(key, (-1, now, None))
        if found is None or version != self._version or not at <= now < at + 1:
            known_s = None if self._since is None else now - self._since
            found = rates(self.rows(service, env, now - window_s), now, window_s, known_s)
            self._asked[key] = (self._version, now, found)
        return found

    def series(self, service: str, env: str, now: float, points: int = 30, step_s: float = 2.0) -> tuple[float, ...]:
        """Requests per second in `points` steps of `step_s`, newest last, ending at the last whole second."""
        end = math.floor(now)
        counts = [0] * points
        for row in self.rows(service, env, end - points * step_s):
            back = int((end - (row.t0 + row.t1) / 2) // step_s)
            if 0 <= back < points:
                counts[points - 1 - back] += row.requests
        return tuple(count / step_s for count in counts)
