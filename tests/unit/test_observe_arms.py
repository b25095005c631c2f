"""The judge's intervals: workers summed second by second, holes measured, nothing gained or lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from adapters.ports import ArmCounts
from engine.observe.evidence import ArmFold, Span, union_length

spans_of_workers = st.lists(
    st.tuples(
        st.sampled_from(["g-1", "g-2"]), st.integers(0, 60), st.sampled_from(["stable", "canary"]), st.integers(0, 9)
    ),
    max_size=60,
)


def span(boot: str, second: float, track: str = "stable", requests: int = 1) -> Span:
    return Span(boot, 100 + second, 101 + second, track, ArmCounts(requests, requests // 2, requests // 3))


@given(spans_of_workers, st.integers(1, 7))
def test_counts_are_neither_lost_nor_gained_by_bucketing(raw: list[tuple[str, int, str, int]], size: int) -> None:
    spans = [span(boot, second + 0.3, track, n) for boot, second, track, n in raw]
    fold = ArmFold()
    for first in range(0, len(spans), size):
        fold.add(spans[first : first + size])
    intervals = fold.intervals()
    assert sum(i.stable.requests + i.canary.requests for i in intervals) == sum(s.counts.requests for s in spans)
    assert sum((i.canary for i in intervals), ArmCounts()) == sum(
        (s.counts for s in spans if s.track == "canary"), ArmCounts()
    )
    starts = [i.t0 for i in intervals]
    assert starts == sorted(set(starts))
    assert all(i.t1 - i.t0 == 1 for i in intervals)


def test_workers_share_a_bucket() -> None:
    fold = ArmFold()
    fold.add([span("g-1", 0.1, "stable", 4), span("g-2", 0.3, "stable", 6), span("g-2", 0.3, "canary", 3)])
    (only,) = fold.intervals()
    assert (only.stable.requests, only.canary.requests) == (10, 3)


def test_a_jump_in_one_worker_is_a_gap_though_the_other_counted_on() -> None:
    fold = ArmFold()
    fold.add([span("g-1", s) for s in range(10)] + [span("g-2", s) for s in (0, 1, 2, 7, 8, 9)])
    assert fold.gap_s(since=100.0) == 4.0


def test_a_time_without_any_worker_is_a_gap() -> None:
    fold = ArmFold()
    fold.add([span("g-1", s) for s in range(3)])
    fold.add([span("g-3", s) for s in range(8, 12)])
    assert fold.gap_s(since=100.0) == 5.0


def test_workers_that_take_over_from_each_other_leave_no_gap() -> None:
    fold = ArmFold()
    fold.add([span("g-1", s) for s in range(5)] + [span("g-2", s) for s in range(4, 9)])
    assert fold.gap_s(since=99.5) == 0.0


def test_a_late_start_is_a_gap_from_the_acknowledgement_on() -> None:
    fold = ArmFold()
    fold.add([span("g-1", s) for s in range(10, 15)])
    assert fold.gap_s(since=100.0) == 10.0


def test_a_living_worker_that_does_not_answer_is_a_gap_from_its_last_count() -> None:
    fold = ArmFold()
    fold.add([span("g-1", s) for s in range(20)] + [span("g-2", s) for s in range(5)])
    assert fold.gap_s(since=100.0) == 0.0
    assert fold.gap_s(since=100.0, silent={"g-2": 105.0}) == 15.0


def test_nothing_counted_is_no_interval_and_no_gap() -> None:
    assert ArmFold().intervals() == ()
    assert ArmFold().gap_s(since=0.0) == 0.0


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=12), st.integers(0, 40), st.integers(0, 40))
def test_union_length_counts_each_instant_once(raw: list[tuple[int, int]], start: int, end: int) -> None:
    covered = {t for first, last in raw for t in range(first, last) if start <= t < end}
    assert union_length(raw, start, end) == len(covered)


def test_a_baseline_takes_stables_place_once_it_is_counted() -> None:
    fold = ArmFold()
    fold.add([Span("g", 0.0, 1.0, track, ArmCounts(n)) for track, n in (("stable", 90), ("canary", 5))])
    assert [(i.stable.requests, i.canary.requests) for i in fold.intervals()] == [(90, 5)]
    fold.add(
        [Span("g", 1.0, 2.0, track, ArmCounts(n)) for track, n in (("stable", 90), ("canary", 5), ("baseline", 6))]
    )
    assert fold.has_baseline
    assert [(i.stable.requests, i.canary.requests) for i in fold.intervals()] == [(0, 5), (6, 5)]
