"""Service levels: what counts as bad, what is unknown, what a dead gateway costs, and which burn rates wake whom."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.observe.burn import RULES, WINDOWS, Burn, burning, window_name
from engine.observe.slo import (
    Minute,
    SloStatus,
    Tally,
    availability_ratio,
    budget_left,
    slo_status,
    slow_ratio,
    tally,
    window_minutes,
)
from state.words import Severity

DAY = 86_400.0
NOW = 29_000_000 * 60 + 30.0
THIS = int(NOW // 60)

minutes = st.builds(
    lambda at, ok, bad, probes, failed: Minute(THIS - at, ok + bad, bad, 0, probes, min(failed, probes)),
    st.integers(0, 200), st.integers(0, 500), st.integers(0, 50), st.integers(0, 12), st.integers(0, 12),
)  # fmt: skip
histories = st.lists(minutes, max_size=40, unique_by=lambda m: m.minute)


def status(history: list[Minute], *, window_d: float = 28, now: float = NOW, error_limit: float = 0.005) -> SloStatus:
    window_s = window_d * DAY
    first = min((m.minute for m in history), default=None)
    tallies = {}
    for window in {*WINDOWS, window_s}:
        low, high = window_minutes(window, first, now)
        tallies[window] = tally([m for m in history if low <= m.minute <= high], now)
    return slo_status(
        "chat", "production", error_limit=error_limit, slow_limit=0.05, window_s=window_s, tallies=tallies,
        first_minute=first, current_is_covered=any(m.minute == int(now // 60) for m in history), now=now,
    )  # fmt: skip


def steady(length: int, *, bad: int = 0, requests: int = 100, until: int = THIS) -> list[Minute]:
    return [Minute(until - back, requests, bad, 0, 12, 0) for back in range(length)]


@given(histories)
def test_ratios_are_shares_or_unknown(history: list[Minute]) -> None:
    whole = tally(history, NOW)
    for ratio in (availability_ratio(whole), slow_ratio(whole)):
        assert ratio is None or 0 <= ratio <= 1


@given(histories)
def test_nothing_known_is_unknown_and_never_good(history: list[Minute]) -> None:
    empty = [Minute(m.minute) for m in history]
    assert availability_ratio(tally(empty, NOW)) is None
    shown = status(empty)
    assert shown.budget_left is None
    assert shown.sli is None
    assert not shown.is_exhausted
    if empty:
        assert shown.coverage == 0.0


@given(histories, st.integers(0, 200), st.integers(1, 12))
def test_a_failing_probe_never_makes_a_service_look_better(history: list[Minute], back: int, failed: int) -> None:
    before = availability_ratio(tally(history, NOW))
    worse = [m for m in history if m.minute != THIS - back]
    was = next((m for m in history if m.minute == THIS - back), Minute(THIS - back))
    if was.requests == 0 and not any(m.requests for m in history):
        return  # only probes speak then: covered by the test below
    worse.append(Minute(was.minute, was.requests, was.errors, was.slow, failed, failed))
    after = availability_ratio(tally(worse, NOW))
    assert before is not None
    assert after is not None
    assert after >= before - 1e-12


@given(st.integers(1, 12), st.integers(0, 12))
def test_without_users_the_probes_are_the_only_word(probes: int, failed: int) -> None:
    failed = min(failed, probes)
    assert availability_ratio(tally([Minute(1, probes=probes, probe_errors=failed)], NOW)) == failed / probes


def test_good_probes_of_idle_minutes_do_not_drown_what_users_met() -> None:
    idle = [Minute(THIS - back, probes=12) for back in range(1, 600)]
    assert availability_ratio(tally([Minute(THIS, 10, 5), *idle], NOW)) == 0.5


@pytest.mark.parametrize("offset_s", [0, 10, 30, 59])
def test_a_gateway_dead_for_a_minute_costs_about_a_minute_of_requests_wherever_it_falls(offset_s: int) -> None:
    start = (THIS - 30) * 60 + offset_s
    history = []
    for minute in range(THIS - 60, THIS + 1):
        down = max(0, min((minute + 1) * 60, start + 60) - max(minute * 60, start))
        served = (60 - down) if minute < THIS else 30
        failed = round(12 * down / 60)
        history.append(Minute(minute, requests=10 * served, probes=12, probe_errors=failed))
    whole = tally(history, NOW)
    assert whole.errors == 0
    assert 450 <= whole.lost <= 700
    before = status([Minute(m.minute, 600) for m in history]).budget_left
    after = status(history).budget_left
    assert before == 1.0
    assert after is not None
    assert after < before


def test_one_failed_probe_beside_full_traffic_loses_nothing() -> None:
    history = [*steady(30), Minute(THIS - 40, 100, 0, 0, 12, 1)]
    assert tally(history, NOW).lost == 0


def test_a_release_that_fails_everyone_is_not_counted_twice() -> None:
    history = [*steady(30), Minute(THIS - 40, 100, 100, 0, 12, 12)]
    whole = tally(history, NOW)
    assert whole.lost == 0
    assert whole.errors == 100


def test_an_unknown_hour_is_coverage_and_neither_good_nor_bad() -> None:
    known = steady(60, bad=1) + steady(60, bad=1, until=THIS - 120)
    shown = status(known)
    assert shown.coverage == pytest.approx(120 / 180, abs=0.01)
    assert shown.sli == pytest.approx(0.99)
    assert any("unknown" in note for note in shown.notes)


def test_a_young_service_says_that_its_windows_are_clamped() -> None:
    shown = status(steady(10, bad=1))
    assert shown.is_clamped
    assert any("clamped" in note for note in shown.notes)
    assert shown.burn["3d"] == pytest.approx(2.0)


def test_a_full_window_spends_its_budget_at_the_limit() -> None:
    assert budget_left(0.005, 0.005, 28 * DAY, 28 * DAY) == pytest.approx(0.0)
    assert budget_left(0.010, 0.005, 28 * DAY, 28 * DAY) == pytest.approx(-1.0)
    assert budget_left(0.0, 0.005, 28 * DAY, 28 * DAY) == 1.0
    assert budget_left(None, 0.005, DAY, 28 * DAY) is None


def test_a_young_service_has_spent_burn_rate_times_the_part_that_exists() -> None:
    # One hour at 14.4 times the limit is 2 % of a 30-day budget: the workbook's own number.
    assert budget_left(14.4 * 0.001, 0.001, 3_600, 30 * DAY) == pytest.approx(0.98)


def test_the_factors_are_the_budget_share_over_the_long_window() -> None:
    for rule in RULES:
        assert rule.factor == pytest.approx(rule.budget_share * 30 * DAY / rule.long_s, rel=1e-9)


def burns(rate: float | None, *, events: int = 10_000, elapsed: float = 30 * DAY) -> dict[float, Burn]:
    return {w: Burn(w, min(w, elapsed), rate, events) for w in WINDOWS}


def test_a_fast_burn_pages_and_a_slow_one_opens_a_ticket() -> None:
    assert next(r.severity for r in burning(burns(15.0))) is Severity.PAGE
    assert {r.severity for r in burning(burns(2.0))} == {Severity.TICKET}
    assert burning(burns(1.0)) == ()


@pytest.mark.parametrize("quiet", [burns(None), burns(100.0, events=199), burns(100.0, elapsed=240.0)])
def test_no_evidence_little_traffic_and_a_newborn_wake_nobody(quiet: dict[float, Burn]) -> None:
    assert burning(quiet) == ()


def test_both_windows_must_burn() -> None:
    over = burns(100.0)
    for short in (300.0, 1_800.0, 7_200.0, 21_600.0):
        over[short] = Burn(short, short, 0.0, 10_000)
    assert burning(over) == ()


def test_a_service_of_ten_minutes_can_page() -> None:
    shown = status(steady(10, bad=20))
    assert [r.factor for r in shown.availability.burning] == [14.4]


@given(st.floats(1, 10 * DAY))
def test_windows_are_named_in_words(seconds: float) -> None:
    assert window_name(seconds)[-1] in "smhd"


def test_window_names_are_those_people_say() -> None:
    assert [window_name(w) for w in WINDOWS] == ["5m", "30m", "1h", "2h", "6h", "1d", "3d"]


def test_a_tally_of_nothing_has_no_lost_requests() -> None:
    assert Tally().lost == 0.0
    assert Tally().events == 0
