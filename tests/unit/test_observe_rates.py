"""Rates and quantiles of the last minute: right, and unknown when there is nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.observe.fold import CountRow
from engine.observe.rates import Recent, p95_ms, quantile, rates

BOUNDS = (0.05, 0.1, 0.2, 0.5, 1.0)


def histogram(seconds: list[float]) -> dict[str, int]:
    return {**{f"{b:g}": sum(s <= b for s in seconds) for b in BOUNDS}, "+Inf": len(seconds)}


def count(t1: float, latencies: list[float], track: str = "stable", errors: int = 0, boot: str = "g-1") -> CountRow:
    return CountRow(
        boot, int(t1), t1 - 1, t1, "chat", "production", "local", track, f"charlm-{track}", "", 1, len(latencies),
        errors, 0, {"ok": len(latencies)}, {"buckets": histogram(latencies), "sum": sum(latencies)}, 7,
    )  # fmt: skip


@given(st.lists(st.floats(0.001, 0.99), min_size=1, max_size=200), st.floats(0.01, 0.99))
def test_a_quantile_lies_in_the_bucket_that_holds_its_rank(seconds: list[float], q: float) -> None:
    found = quantile(histogram(seconds), q)
    assert found is not None
    exact = sorted(seconds)[min(len(seconds) - 1, max(0, -int(-q * len(seconds) // 1) - 1))]
    lower = max((b for b in (0.0, *BOUNDS) if b < exact), default=0.0)
    upper = min(b for b in BOUNDS if b >= exact)
    assert lower - 1e-9 <= found <= upper + 1e-9


@given(st.lists(st.floats(0.001, 3.0), min_size=1, max_size=50))
def test_quantiles_rise_with_q_and_stay_within_the_bounds(seconds: list[float]) -> None:
    found = [quantile(histogram(seconds), q / 20) or 0.0 for q in range(1, 20)]
    assert found == sorted(found)
    assert found[-1] <= BOUNDS[-1]


def test_a_quantile_interpolates_as_prometheus_does() -> None:
    assert quantile({"0.1": 50, "0.2": 100, "+Inf": 100}, 0.95) == pytest.approx(0.19)
    assert quantile({"0.1": 1, "+Inf": 100}, 0.95) == 0.1


@pytest.mark.parametrize("empty", [{}, {"0.1": 0, "+Inf": 0}])
def test_a_quantile_of_nothing_is_unknown(empty: dict[str, int]) -> None:
    assert quantile(empty, 0.95) is None
    assert p95_ms([]) is None


def test_rates_of_silence_are_unknown_not_zero() -> None:
    quiet = rates([], now=1_000.0)
    assert quiet.rps == 0
    assert quiet.error_ratio is None
    assert quiet.p95_ms is None
    assert quiet.age_s is None


def test_rates_by_track_have_their_measured_share() -> None:
    recent = Recent()
    recent.add(count(900.0 + s, [0.04] * 3, errors=1) for s in range(60))
    recent.add(count(900.0 + s, [0.15], "canary", boot="g-2") for s in range(60))
    now = recent.rates("chat", "production", now=960.0)
    assert now.rps == pytest.approx(4.0, rel=0.05)
    assert now.error_ratio == pytest.approx(0.25)
    assert now.by_track["canary"].share_pct == pytest.approx(25.0)
    assert now.by_track["canary"].p95_ms == pytest.approx(195.0)
    assert now.age_s == pytest.approx(1.0)
    assert recent.rates("chat", "staging", now=960.0).requests == 0


def test_a_young_window_is_not_diluted_and_an_old_row_is_forgotten() -> None:
    recent = Recent()
    recent.add([count(1_000.0 + s, [0.1] * 10) for s in range(1, 6)])
    assert recent.rates("chat", "production", now=1_005.0).rps == pytest.approx(10.0)
    recent.add([count(9_000.0, [0.1])])
    assert recent.rates("chat", "production", now=9_000.0, window_s=8_500.0).requests == 1


def test_the_series_ends_now_and_holds_requests_per_second() -> None:
    recent = Recent()
    recent.add(count(1_000.0 + s, [0.1] * 4) for s in range(1, 21))
    series = recent.series("chat", "production", now=1_020.0, points=5, step_s=2.0)
    assert series == (4.0,) * 5
