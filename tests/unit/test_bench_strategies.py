"""The strategies' benchmark: which answers count as the move's, and what a failed request does to its row."""

from __future__ import annotations

from engine.bench.report import quantile
from engine.bench.rollback.users import Seen
from engine.bench.strategies.bench import moved_of, rows_of
from state.words import Strategy


def test_answers_belong_to_the_calm_the_move_or_neither_by_when_they_were_asked_for() -> None:
    seen = Seen(took=[(10, 1.0), (20, 2.0), (29, 3.0), (30, 9.0)], failed=1, errors={"status 503": 1})
    moved = moved_of(seen, 20, 30)
    assert (moved.calm_ms, moved.moving_ms, moved.asked) == ([1.0], [2.0, 3.0], 5)
    latency, errors = rows_of(Strategy.ROLLING, moved)
    assert (latency.name, latency.ours, latency.other, latency.met) == ("rolling, p99", 3.0, 1.0, None)
    assert (errors.ours, errors.met) == (1.0, False) and errors.note == "of 5 requests (status 503: 1)"


def test_a_quantile_is_a_value_that_was_measured() -> None:
    assert [quantile([4.0, 1.0, 3.0, 2.0], q) for q in (0.0, 0.25, 0.5, 0.99)] == [1.0, 1.0, 2.0, 4.0]
