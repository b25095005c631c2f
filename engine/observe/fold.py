"""From a gateway worker's snapshots to rows of evidence and minutes of the service level. Pure.

A snapshot is one interval's own numbers (nothing cumulative), numbered by a rising `seq` within one worker (its boot
id). A number that is missing is a gap; it is never read as zero.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

ATTEMPT_FAILURES = "attempt_failures"
"""The key, among a row's codes, of attempts that failed here and were answered by another replica or track."""

UNSAFE = "unsafe:"
"""What begins the keys, among a row's codes, of unsafe answers by a digest of the caller who got them."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last snapshot of a worker that was ingested: its number and where its interval ended."""

    seq: int
    t1: float


@dataclass(frozen=True, slots=True)
class CountRow:
    """What one worker counted for one track of one release in [t0, t1), Unix seconds.

    `latency` is `{"buckets": {"0.1": n, …, "+Inf": n}, "sum": seconds}`, cumulative, empty without requests; `codes` has
    what is not zero, by `state.words.BadClass`, and attempts that failed under ATTEMPT_FAILURES, unsafe answers by caller
    under UNSAFE.
    """

    boot_id: str
    seq: int
    t0: float
    t1: float
    service: str
    env: str
    target: str
    track: str
    release_id: str
    rollout_id: str
    table_revision: int
    requests: int
    errors: int
    slow: int
    codes: Mapping[str, int]
    latency: Mapping[str, Any]
    tokens: int
    checked: int = 0
    failed: int = 0
    priced: int = 0
    dear: int = 0
    busy_s: float = 0.0

    @property
    def is_idle(self) -> bool:
        """Nothing at all happened."""
        return not (self.requests or self.tokens or self.checked or any(self.codes.values()))

    @property
    def attempt_failures(self) -> int:
        """Attempts that failed on this track and were answered elsewhere."""
        return self.codes.get(ATTEMPT_FAILURES, 0)


@dataclass(frozen=True, slots=True)
class Gap:
    """Snapshots that never came: numbers in (after_seq, before_seq), time in [t0, t1)."""

    boot_id: str
    after_seq: int
    before_seq: int
    t0: float
    t1: float


@dataclass(frozen=True, slots=True)
class MinuteCounts:
    """What a service's users met in one minute."""

    requests: int = 0
    errors: int = 0
    slow: int = 0

    def __add__(self, other: MinuteCounts) -> MinuteCounts:
        return MinuteCounts(self.requests + other.requests, self.errors + other.errors, self.slow + other.slow)


MinuteKey = tuple[str, str, int]
"""(service, env, minute since the epoch)."""


@dataclass(frozen=True, slots=True)
class Folded:
    """What a batch of one worker's snapshots comes to."""

    boot_id: str
    rows: tuple[CountRow, ...]
    minutes: Mapping[MinuteKey, MinuteCounts]
    gaps: tuple[Gap, ...]
    refused: tuple[str, ...]
    cursor: Cursor | None


def fold(
    boot_id: str, snapshots: Iterable[Mapping[str, Any]], known: Cursor | None, over: Collection[str] = ()
) -> Folded:
    """The evidence in `snapshots` that comes after `known`, each number taken once, in order.

    Rows of a rollout are kept even at zero (no traffic is evidence of no traffic, and its interval is covered); idle
    rows outside a rollout say nothing and are left out. A route goes on naming its last rollout; rows of those that are
    `over` belong to none. A snapshot that cannot be true is refused whole: a gap.
    """
    rows: list[CountRow] = []
    minutes: dict[MinuteKey, MinuteCounts] = {}
    gaps: list[Gap] = []
    refused: list[str] = []
    cursor = known
    for snapshot in _in_order(snapshots, refused):
        seq = snapshot["seq"]
        if cursor is not None and seq <= cursor.seq:
            continue
        try:
            found = _rows(boot_id, snapshot)
        except (KeyError, TypeError, ValueError) as error:
            refused.append(f"{boot_id} snapshot {seq}: {error}")
            continue
        t0, t1 = float(snapshot["t0"]), float(snapshot["t1"])
        if cursor is not None and seq > cursor.seq + 1:
            gaps.append(Gap(boot_id, cursor.seq, seq, cursor.t1, max(t0, cursor.t1)))
        cursor = Cursor(seq, t1)
        minute = int((t0 + t1) / 2 // 60)
        for row in found:
            if row.requests:
                key = (row.service, row.env, minute)
                counts = MinuteCounts(row.requests, row.errors, row.slow)
                minutes[key] = minutes.get(key, MinuteCounts()) + counts
            belongs = row.rollout_id and row.rollout_id not in over
            if belongs or not row.is_idle:
                rows.append(row if belongs else replace(row, rollout_id=""))
    return Folded(boot_id, tuple(rows), minutes, tuple(gaps), tuple(refused), cursor)


def merge_alike(rows: Iterable[CountRow], key: tuple[str, ...]) -> tuple[CountRow, ...]:
    """Rows that agree in the fields `key` added together, under the older table revision.

    The gateway counts a request under the revision that admitted it, so the seconds after a switch hold rows of two
    revisions. Where the store cannot tell them apart, the older one claims both: a step never gains a request that
    was admitted before it.
    """
    merged: dict[tuple[Any, ...], CountRow] = {}
    for row in rows:
        where = tuple(getattr(row, name) for name in key)
        merged[where] = _add(merged[where], row) if where in merged else row
    return tuple(merged.values())


def _add(one: CountRow, other: CountRow) -> CountRow:
    older = one if one.table_revision <= other.table_revision else other
    return replace(
        older,
        requests=one.requests + other.requests,
        errors=one.errors + other.errors,
        slow=one.slow + other.slow,
        tokens=one.tokens + other.tokens,
        checked=one.checked + other.checked,
        failed=one.failed + other.failed,
        priced=one.priced + other.priced,
        dear=one.dear + other.dear,
        busy_s=one.busy_s + other.busy_s,
        codes=_add_counts(one.codes, other.codes),
        latency=add_histograms(one.latency, other.latency),
    )


def add_histograms(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Two histograms over the same bounds as one."""
    return {
        "buckets": _add_counts(one.get("buckets", {}), other.get("buckets", {})),
        "sum": float(one.get("sum", 0.0)) + float(other.get("sum", 0.0)),
    }


def _add_counts(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in {**one, **other}}


def _in_order(snapshots: Iterable[Mapping[str, Any]], refused: list[str]) -> list[Mapping[str, Any]]:
    numbered = []
    for snapshot in snapshots:
        seq = snapshot.get("seq") if isinstance(snapshot, Mapping) else None
        if isinstance(seq, int) and not isinstance(seq, bool):
            numbered.append(snapshot)
        else:
            refused.append(f"a snapshot without a number: {str(snapshot)[:80]}")
    return sorted(numbered, key=lambda snapshot: int(snapshot["seq"]))


def _rows(boot_id: str, snapshot: Mapping[str, Any]) -> list[CountRow]:
    t0, t1 = float(snapshot["t0"]), float(snapshot["t1"])
    if not (math.isfinite(t0) and math.isfinite(t1) and t1 > t0):
        raise ValueError(f"its interval [{t0}, {t1}) cannot be")
    return [_row(boot_id, snapshot["seq"], t0, t1, row) for row in snapshot["rows"]]


def _row(boot_id: str, seq: int, t0: float, t1: float, row: Mapping[str, Any]) -> CountRow:
    requests, errors, slow = (_count(row, name) for name in ("requests", "errors", "slow"))
    if errors > requests or slow > requests:
        raise ValueError(f"{errors} errors and {slow} slow of {requests} requests cannot be")
    checked, failed, priced, dear = (_count(row, name, 0) for name in ("checked", "failed", "priced", "dear"))
    if failed > checked or dear > priced:
        raise ValueError(f"{failed} failed of {checked} checked and {dear} dear of {priced} priced cannot be")
    codes = {str(name): n for name in row.get("codes", {}) if (n := _count(row["codes"], name))}
    if failures := _count(row, ATTEMPT_FAILURES, 0):
        codes[ATTEMPT_FAILURES] = failures
    unsafe = row.get("unsafe") or {}
    codes.update({UNSAFE + str(caller): _count(unsafe, caller) for caller in unsafe})
    latency = row.get("latency") or {}
    buckets = latency.get("buckets", {})
    return CountRow(
        boot_id=boot_id,
        seq=seq,
        t0=t0,
        t1=t1,
        service=str(row["service"]),
        env=str(row["env"]),
        target=str(row.get("target", "local")),
        track=str(row["track"]),
        release_id=str(row["release_id"]),
        rollout_id=str(row.get("rollout_id") or ""),
        table_revision=_count(row, "table_revision"),
        requests=requests,
        errors=errors,
        slow=slow,
        codes=codes,
        latency={"buckets": {le: _count(buckets, le) for le in buckets}, "sum": float(latency.get("sum", 0.0))}
        if requests
        else {},
        tokens=_count(row, "tokens", 0),
        checked=checked,
        failed=failed,
        priced=priced,
        dear=dear,
        busy_s=_seconds(row, "busy_s"),
    )


def _seconds(row: Mapping[str, Any], name: str) -> float:
    value = float(row.get(name, 0.0))
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} = {value!r} is no time")
    return value


def _count(row: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = row[name] if default is None else row.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{name} = {value!r} is no count")
    return value
