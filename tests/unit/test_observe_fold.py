"""Snapshots become evidence once each, in order, and what is missing is never read as zero."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.observe.fold import CountRow, Cursor, fold, merge_alike


def row(
    track: str = "stable", requests: int = 0, errors: int = 0, revision: int = 1, rollout: str = "ro-1", **more: Any
) -> dict[str, Any]:
    return {
        "service": "chat", "env": "production", "target": "local", "track": track, "release_id": f"charlm-{track}",
        "rollout_id": rollout, "table_revision": revision, "requests": requests, "errors": errors, "slow": 0,
        "codes": {"ok": requests - errors, "5xx": errors},
        "latency": {"buckets": {"0.1": requests, "+Inf": requests}, "sum": 0.05 * requests},
        "ttft": {"buckets": {}, "sum": 0.0}, "tokens": 0, "attempt_failures": 0, **more,
    }  # fmt: skip


def snapshot(seq: int, *rows: dict[str, Any], at: float = 1_000.0) -> dict[str, Any]:
    return {"seq": seq, "t0": at + seq - 1, "t1": at + seq, "rows": list(rows)}


@given(
    counts=st.lists(st.integers(0, 50), min_size=1, max_size=30),
    polls=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=12),
)
def test_every_snapshot_is_taken_once_however_the_polls_overlap(
    counts: list[int], polls: list[tuple[int, int]]
) -> None:
    whole = [snapshot(seq, row(requests=n)) for seq, n in enumerate(counts, start=1)]
    cursor: Cursor | None = None
    seen: list[CountRow] = []
    for low, high in [*polls, (0, len(whole))]:
        folded = fold("g-1", whole[min(low, high) : max(low, high)], cursor)
        seen += folded.rows
        cursor = folded.cursor
    taken = [r.seq for r in seen]
    assert taken == sorted(set(taken))
    assert cursor == Cursor(len(whole), whole[-1]["t1"])


def test_a_missing_number_is_a_gap_and_no_row() -> None:
    folded = fold("g-1", [snapshot(4, row(requests=7)), snapshot(9, row(requests=5))], Cursor(3, 1_003.0))
    assert [(g.after_seq, g.before_seq, g.t0, g.t1) for g in folded.gaps] == [(4, 9, 1_004.0, 1_008.0)]
    assert [r.requests for r in folded.rows] == [7, 5]


def test_silence_is_kept_during_a_rollout_and_dropped_outside() -> None:
    during = fold("g-1", [snapshot(1, row("stable"), row("canary"))], None)
    outside = fold("g-1", [snapshot(1, row(rollout=""), row("canary", requests=1, rollout=""))], None)
    ended = fold("g-1", [snapshot(1, row("stable"), row("canary", requests=1))], None, over={"ro-1"})
    assert [r.requests for r in during.rows] == [0, 0]
    assert [r.track for r in outside.rows] == ["canary"]
    assert [(r.track, r.rollout_id) for r in ended.rows] == [("canary", "")]


@pytest.mark.parametrize(
    "broken",
    [
        row(requests=1, errors=2),
        row(requests=-1),
        row(requests=True),
        {**row(), "slow": 1.5},
        {**row(), "errors": None},
        {k: v for k, v in row().items() if k != "release_id"},
    ],
)
def test_a_snapshot_that_cannot_be_true_is_refused_whole_and_becomes_a_gap(broken: dict[str, Any]) -> None:
    folded = fold("g-1", [snapshot(1, row()), snapshot(2, row(requests=9), broken), snapshot(3, row())], None)
    assert [r.seq for r in folded.rows] == [1, 3]
    assert len(folded.gaps) == len(folded.refused) == 1


def test_times_that_are_not_numbers_are_refused() -> None:
    bad = snapshot(2, row())
    assert fold("g-1", [{**bad, "t1": math.nan}], None).rows == ()
    assert fold("g-1", [{**bad, "t1": bad["t0"] - 1}], None).rows == ()
    assert fold("g-1", [{"t0": 1, "t1": 2, "rows": []}, "text"], None).refused  # type: ignore[list-item]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=200))
def test_minutes_hold_exactly_the_requests_of_the_rows(pairs: list[tuple[int, int]]) -> None:
    snapshots = [
        snapshot(seq, row(requests=ok + bad, errors=bad), row("canary", requests=ok), at=5_000.0)
        for seq, (ok, bad) in enumerate(pairs, start=1)
    ]
    folded = fold("g-1", snapshots, None)
    assert sum(m.requests for m in folded.minutes.values()) == sum(r.requests for r in folded.rows)
    assert sum(m.errors for m in folded.minutes.values()) == sum(bad for _, bad in pairs)


def test_failed_attempts_that_others_answered_stay_visible() -> None:
    (kept,) = fold("g-1", [snapshot(1, row("canary", rollout="", attempt_failures=4))], None).rows
    assert (kept.requests, kept.attempt_failures) == (0, 4)


KEY = ("boot_id", "seq", "service", "env", "target", "track", "release_id")


def test_rows_the_store_cannot_tell_apart_are_added_under_the_older_revision() -> None:
    rows = fold(
        "g-1", [snapshot(1, row(requests=3, revision=8, errors=1), row(requests=2, revision=7, rollout=""))], None
    ).rows
    (merged,) = merge_alike(rows, KEY)
    assert (merged.requests, merged.errors, merged.table_revision, merged.rollout_id) == (5, 1, 7, "")
    assert merged.latency["buckets"] == {"0.1": 5, "+Inf": 5}
    assert len(merge_alike(rows, (*KEY, "table_revision"))) == 2


def test_unsafe_answers_keep_their_callers() -> None:
    folded = fold("g-1", [snapshot(1, row(requests=5, unsafe={"ab": 2, "cd": 1}))], None)
    assert {name: n for name, n in folded.rows[0].codes.items() if ":" in name} == {"unsafe:ab": 2, "unsafe:cd": 1}
    refused = fold("g-1", [snapshot(1, row(requests=5, unsafe={"ab": -1}))], None)
    assert refused.refused and not refused.rows


@pytest.mark.parametrize("busy_s", [math.nan, math.inf, -1.0, "long", None])
def test_a_time_that_is_none_is_refused_and_stops_no_other(busy_s: object) -> None:
    folded = fold("g-1", [snapshot(1, row(busy_s=busy_s)), snapshot(2, row(requests=3))], None)
    assert [r.requests for r in folded.rows] == [3] and len(folded.refused) == 1
