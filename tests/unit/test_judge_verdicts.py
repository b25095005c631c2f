"""What the judge says about the situations a rollout meets."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from adapters.ports import ArmCounts, ArmEvidence, Interval, Unsafe
from engine.rollouts import wording
from engine.rollouts.judge import JudgeInput, JudgePolicy, judge, requests_to_pass, verdict_from_json, verdict_to_json
from engine.rollouts.planned import planned_requests, seconds_to_find
from state.config import Slo
from state.policy_config import JudgeConfig
from state.words import NoDataCause, VerdictKind

POLICY = JudgePolicy(
    margin=1.0,
    alpha=0.05,
    min_requests=50,
    max_s=1800,
    no_data_after_s=60,
    error_limit=0.05,
    slow_limit=0.05,
    guardrails=("crash_loop", "bad_windows"),
    bad_window_s=10,
)


def steady(
    seconds: int,
    stable: tuple[int, int, int] = (15, 0, 0),
    canary: tuple[int, int, int] = (5, 0, 0),
    start: float = 1e9,
) -> tuple[Interval, ...]:
    """The same counts (requests, errors, slow) each second."""
    return tuple(Interval(start + i, start + i + 1, ArmCounts(*stable), ArmCounts(*canary)) for i in range(seconds))


def given(intervals: tuple[Interval, ...], **changes: object) -> JudgeInput:
    evidence = ArmEvidence(intervals, gap_s=0.0, age_s=1.0)
    base = JudgeInput(evidence, POLICY, float(len(intervals)), True, None, 25)
    return replace(base, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("why", ["unreachable: timeout", "series_missing: airboss_requests_total has no series here"])
def test_a_source_that_says_nothing_for_a_moment_is_waited_for_and_then_it_is_no_data(why: str) -> None:
    def said(silent_s: float) -> VerdictKind:
        silence = ArmEvidence((), 0.0, None, trouble=why, trouble_s=silent_s)
        return judge(given((), evidence=silence, elapsed_s=600.0)).kind

    assert (said(0.0), said(59.0)) == (VerdictKind.INCONCLUSIVE, VerdictKind.INCONCLUSIVE)
    assert (said(60.0), said(math.inf)) == (VerdictKind.NO_DATA, VerdictKind.NO_DATA)
    crazy = ArmEvidence((), 0.0, None, trouble="not_a_number: a counter is not a number", trouble_s=0.0)
    assert judge(given((), evidence=crazy)).kind is VerdictKind.NO_DATA, "what is no count is not waited for"


def test_a_clean_canary_passes_below_the_objective_after_the_arithmetic_says_so() -> None:
    wanted = requests_to_pass(POLICY.error_limit, POLICY.alpha / 2)
    assert 75 <= wanted <= 120
    one_short = judge(given((Interval(0, 30, ArmCounts(300), ArmCounts(wanted - 1)),)))
    enough = judge(given((Interval(0, 30, ArmCounts(300), ArmCounts(wanted)),)))
    assert (one_short.kind, one_short.needs_requests) == (VerdictKind.INCONCLUSIVE, 1)
    assert enough.kind is VerdictKind.PASS
    assert [check.route for check in enough.checks] == ["below_slo", "below_slo"]
    assert "below the objective's 5 %" in enough.sentence and f"0/{wanted}" in enough.sentence


def test_enough_evidence_without_the_least_number_of_requests_is_no_pass() -> None:
    verdict = judge(given(steady(30), policy=replace(POLICY, min_requests=200)))
    assert verdict.kind is VerdictKind.INCONCLUSIVE
    assert verdict.needs_requests == 50 and verdict.needs_s == pytest.approx(10)
    assert "150 of at least 200 canary requests" in verdict.sentence


def test_no_errors_on_either_side_is_no_evidence_of_being_no_worse() -> None:
    verdict = judge(given(steady(10)))
    assert verdict.kind is VerdictKind.INCONCLUSIVE
    assert all(check.e_noninferior == 1 for check in verdict.checks)


def test_a_canary_as_good_as_stable_passes_by_comparison_where_the_objective_is_out_of_reach() -> None:
    verdict = judge(given(steady(60, (30, 3, 0), (30, 2, 0)), policy=replace(POLICY, error_limit=0.07)))
    errors = verdict.checks[0]
    assert (verdict.kind, errors.route) == (VerdictKind.PASS, "non_inferior")
    assert "not 2 times as bad as stable" in verdict.sentence


def test_a_failing_canary_is_found_within_ten_seconds_and_the_sentence_has_the_counts() -> None:
    verdict = judge(given(steady(10, canary=(5, 2, 0))))
    assert (verdict.kind, verdict.guard) == (VerdictKind.FAIL, "errors")
    assert "canary 20/50 (40 %)" in verdict.sentence and "stable 0/150" in verdict.sentence
    assert "difference +40.00 points" in verdict.sentence


def test_a_slow_canary_fails_by_its_share_of_slow_requests() -> None:
    verdict = judge(given(steady(10, canary=(5, 0, 5))))
    assert (verdict.kind, verdict.guard) == (VerdictKind.FAIL, "slow")


def test_one_hiccup_of_the_canary_neither_fails_it_nor_stands_in_its_way() -> None:
    hiccup = Interval(1e9 + 20, 1e9 + 21, ArmCounts(15), ArmCounts(10, 0, 10))
    at_once = judge(given((*steady(20), hiccup)))
    assert at_once.kind is VerdictKind.INCONCLUSIVE
    assert "at a time and counted so" in at_once.sentence
    later = judge(given((*steady(20), hiccup, *steady(120, start=1e9 + 21))))
    assert later.kind is VerdictKind.PASS


def test_a_burst_in_the_first_second_is_not_held_against_a_canary_that_has_just_started() -> None:
    verdict = judge(given((Interval(0, 1, ArmCounts(15), ArmCounts(10, 0, 10)),)))
    assert verdict.kind is VerdictKind.INCONCLUSIVE


def test_harm_that_begins_late_is_found_by_bad_windows_or_sooner() -> None:
    healthy = steady(600, (15, 0, 0), (5, 0, 0))
    for seconds in range(1, 31):
        verdict = judge(given((*healthy, *steady(seconds, (15, 0, 0), (5, 1, 0), start=1e9 + 600))))
        if verdict.kind is VerdictKind.FAIL:
            break
    assert verdict.kind is VerdictKind.FAIL and 5 <= seconds <= 30


def test_three_bad_windows_act_where_earlier_evidence_speaks_for_the_canary() -> None:
    # Stable had a bad quarter of an hour until now, in the middle between two restarts of the sequential test.
    before = steady(750, (15, 3, 0), (5, 0, 0))
    harm = steady(30, (15, 0, 0), (5, 2, 0), start=1e9 + 750)
    verdict = judge(given((*before, *harm)))
    assert (verdict.kind, verdict.guard) == (VerdictKind.FAIL, "bad_windows")
    assert "3 bad windows of 10 s in a row" in verdict.sentence and "20/50" in verdict.sentence
    without = judge(given((*before, *harm), policy=replace(POLICY, guardrails=())))
    assert without.kind is not VerdictKind.FAIL


def test_harm_that_begins_hours_into_a_step_is_found_by_the_sequential_test_as_well() -> None:
    policy = replace(POLICY, guardrails=(), bad_window_s=60)
    minutes = tuple(
        Interval(20.0 * i, 20.0 * i + 20, ArmCounts(360, 1), ArmCounts(40, 3 if i >= 1080 else 0)) for i in range(1107)
    )
    assert judge(given(minutes[:1080], policy=policy)).kind is not VerdictKind.FAIL
    verdict = judge(given(minutes, policy=policy))
    assert (verdict.kind, verdict.guard) == (VerdictKind.FAIL, "errors")


def test_bad_windows_need_a_minimum_of_bad_events() -> None:
    lines = tuple(
        Interval(1e9 + 10 * i, 1e9 + 10 * i + 10, ArmCounts(20), ArmCounts(10, 2 if i >= 90 else 0)) for i in range(93)
    )
    assert judge(given(lines)).guard != "bad_windows"


def test_an_outage_of_both_tracks_pauses_and_does_not_blame_the_canary() -> None:
    verdict = judge(given((*steady(60), *steady(30, (15, 3, 0), (5, 1, 0), start=1e9 + 60))))
    assert verdict.kind is VerdictKind.INCONCLUSIVE and verdict.common_mode
    assert verdict.guard == "common_mode" and "not blamed" in verdict.sentence


def test_a_step_that_was_bad_on_both_tracks_throughout_does_not_pass_as_no_worse() -> None:
    verdict = judge(given(steady(200, (15, 3, 0), (5, 1, 0))))
    assert verdict.common_mode and verdict.kind is VerdictKind.INCONCLUSIVE


def test_a_good_canary_passes_beside_a_stable_that_misses_its_objective() -> None:
    verdict = judge(given(steady(60, stable=(15, 5, 0))))
    assert verdict.kind is VerdictKind.PASS


def test_a_crash_loop_acts_at_once_even_without_counts() -> None:
    dead = ArmEvidence((), 0.0, None, trouble="unreachable: connection refused")
    verdict = judge(JudgeInput(dead, POLICY, 3.0, True, "4 exits in 20 s", 25))
    assert (verdict.kind, verdict.guard) == (VerdictKind.FAIL, "crash_loop")
    assert "4 exits in 20 s" in verdict.sentence
    unwatched = judge(JudgeInput(dead, replace(POLICY, guardrails=()), 3.0, True, "4 exits in 20 s", 25))
    assert unwatched.kind is VerdictKind.NO_DATA


def test_the_last_step_is_judged_against_the_objective_alone() -> None:
    good = judge(given(steady(30, (0, 0, 0), (20, 0, 0)), has_stable_arm=False, configured_weight_pct=100))
    bad = judge(given(steady(60, (0, 0, 0), (20, 3, 0)), has_stable_arm=False, configured_weight_pct=100))
    assert good.kind is VerdictKind.PASS and good.checks[0].stable_rate is None
    assert (bad.kind, bad.guard) == (VerdictKind.FAIL, "errors")
    assert "above the objective's 5 %" in bad.sentence


@pytest.mark.parametrize(
    ("trouble", "cause"),
    [
        ("unreachable: the gateway did not answer", NoDataCause.UNREACHABLE),
        ("series missing: airboss_requests_total", NoDataCause.SERIES_MISSING),
        ("a word nobody foresaw", NoDataCause.UNREACHABLE),
    ],
)
def test_a_source_in_trouble_is_no_data_with_its_cause(trouble: str, cause: NoDataCause) -> None:
    verdict = judge(given((), evidence=ArmEvidence((), 0.0, None, trouble)))
    assert (verdict.kind, verdict.cause) == (VerdictKind.NO_DATA, cause)
    assert trouble in verdict.sentence


def test_nothing_counted_is_a_beginning_at_first_and_no_data_later() -> None:
    nothing = ArmEvidence((), 0.0, None)
    assert judge(given((), evidence=nothing, elapsed_s=5.0)).kind is VerdictKind.INCONCLUSIVE
    late = judge(given((), evidence=nothing, elapsed_s=61.0))
    assert (late.kind, late.cause) == (VerdictKind.NO_DATA, NoDataCause.SERIES_MISSING)


def test_stale_counts_never_pass_but_harm_already_shown_still_counts() -> None:
    stale = judge(given((), evidence=ArmEvidence(steady(60), 0.0, 61.0), elapsed_s=121.0))
    assert (stale.kind, stale.cause) == (VerdictKind.NO_DATA, NoDataCause.STALE)
    harmful = judge(given((), evidence=ArmEvidence(steady(60, canary=(5, 2, 0)), 0.0, 61.0), elapsed_s=121.0))
    assert harmful.kind is VerdictKind.FAIL


def test_a_canary_without_traffic_is_no_data_and_so_is_a_silent_service() -> None:
    idle = judge(given((*steady(30), *steady(60, canary=(0, 0, 0), start=1e9 + 30))))
    silent = judge(given((*steady(30), *steady(60, (0, 0, 0), (0, 0, 0), start=1e9 + 30))))
    assert (idle.kind, idle.cause) == (VerdictKind.NO_DATA, NoDataCause.NO_CANARY_TRAFFIC)
    assert (silent.kind, silent.cause) == (VerdictKind.NO_DATA, NoDataCause.NO_TRAFFIC)


def test_a_gap_is_not_taken_for_idleness_and_the_minimum_is_counted_anew_after_it() -> None:
    gapped = ArmEvidence((*steady(40), *steady(5, start=1e9 + 120)), gap_s=80.0, age_s=1.0)
    verdict = judge(given((), evidence=replace(gapped, gap_s=40.0), elapsed_s=125.0))
    assert verdict.kind is VerdictKind.INCONCLUSIVE
    assert "25 of at least 50 canary requests" in verdict.sentence
    assert "40 s of the step are missing from the counts" in verdict.sentence
    mostly_gap = judge(given((), evidence=gapped, elapsed_s=125.0))
    assert (mostly_gap.kind, mostly_gap.cause) == (VerdictKind.NO_DATA, NoDataCause.GAP)


@pytest.mark.parametrize(
    "counts",
    [
        ArmCounts(math.nan, 0, 0),  # type: ignore[arg-type]
        ArmCounts(100, math.inf, 0),  # type: ignore[arg-type]
        ArmCounts(100, -1, 0),
        ArmCounts(100, 101, 0),
        ArmCounts(100, 0, 101),
        ArmCounts("100", 0, 0),  # type: ignore[arg-type]
        ArmCounts(None, 0, 0),  # type: ignore[arg-type]
    ],
)
def test_counts_that_cannot_be_are_no_data(counts: ArmCounts) -> None:
    for broken in (
        Interval(1e9 + 90, 1e9 + 91, counts, ArmCounts(5)),
        Interval(1e9 + 90, 1e9 + 91, ArmCounts(5), counts),
    ):
        verdict = judge(given((*steady(90), broken)))
        assert (verdict.kind, verdict.cause) == (VerdictKind.NO_DATA, NoDataCause.NOT_A_NUMBER)


def test_an_inconclusive_step_expires_at_its_longest_time() -> None:
    assert not judge(given(steady(10), elapsed_s=1799.0)).expired
    late = judge(given(steady(10), elapsed_s=1800.0))
    assert late.expired and "30 min allowed for this step are over" in late.sentence


def test_the_measured_split_is_used_and_a_mismatch_is_said() -> None:
    verdict = judge(given(steady(60), configured_weight_pct=5))
    assert verdict.measured_split == pytest.approx(0.25)
    assert "the canary gets 25 % of requests though 5 % is configured" in verdict.sentence


def test_a_policy_is_read_from_the_configuration() -> None:
    policy = JudgePolicy.from_config(JudgeConfig(), Slo())
    assert (
        policy.max_s == 1800 and policy.error_limit == pytest.approx(0.005) and policy.slow_limit == pytest.approx(0.05)
    )
    assert policy.guardrails == ("crash_loop", "bad_windows")


def test_the_numbers_in_the_guide_are_the_ones_the_judge_uses() -> None:
    guide = Path(wording.__file__).with_name("JUDGE.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\d.]+) % \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$", guide, re.MULTILINE)
    assert len(rows) == 6
    for limit, *wanted in rows:
        assert [int(n) for n in wanted] == [requests_to_pass(float(limit) / 100, 0.025, bad) for bad in (0, 1, 2, 5)]


def test_verdicts_survive_json_without_a_number_that_json_does_not_know() -> None:
    cases = (
        given(steady(30)),
        given(steady(3000, canary=(5, 5, 5))),
        given(steady(60, (0, 0, 0), (20, 3, 0)), has_stable_arm=False),
        given((), evidence=ArmEvidence((), 0.0, None, "unreachable: x")),
    )
    for case in cases:
        verdict = judge(case)
        text = json.dumps(verdict_to_json(verdict), allow_nan=False)
        assert verdict_from_json(json.loads(text)) == verdict


def test_importing_the_judge_does_not_load_scipy() -> None:
    code = "import sys, engine.rollouts.judge; print([m for m in ('scipy', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_verdict_that_waits_says_what_it_could_find_and_when() -> None:
    # 20 requests a second, 10 % on the canary, stable at 0.4 %: the benchmark finds half of the doublings in about 35 min.
    assert seconds_to_find(20, 0.1, 0.004, 2.0, 0.025) == pytest.approx(34 * 60, rel=0.1)
    assert seconds_to_find(20, 0.1, 0.004, 3.75, 0.025) == pytest.approx(6.3 * 60, rel=0.1)
    minute = tuple(Interval(60.0 * i, 60.0 * i + 60, ArmCounts(1080, 4), ArmCounts(120)) for i in range(5))
    policy = replace(POLICY, error_limit=0.005, bad_window_s=60)
    verdict = judge(given(minute, policy=policy, configured_weight_pct=10))
    assert verdict.kind is VerdictKind.INCONCLUSIVE
    assert "a doubling of stable's 0.37 % errors is found in about 38 min" in verdict.sentence


@pytest.mark.parametrize(
    ("rate", "ratio", "wanted"), [(0.004, 2.0, 2299), (0.004, 2.5, 1143), (0.001, 2.0, 9236), (0.01, 2.0, 911)]
)
def test_the_sample_size_of_a_planned_look_is_the_textbooks(rate: float, ratio: float, wanted: int) -> None:
    assert abs(planned_requests(rate, ratio, 0.1, 0.05) - wanted) <= 1


def test_beside_a_baseline_the_split_is_no_mismatch() -> None:
    evidence = ArmEvidence(steady(60, (5, 0, 0), (5, 0, 0)), 0.0, 1.0, is_baseline=True)
    verdict = judge(given((), evidence=evidence, elapsed_s=60.0, configured_weight_pct=5))
    assert "is configured" not in verdict.sentence and "baseline" in verdict.sentence


SAFETY = replace(POLICY, guardrails=("crash_loop", "bad_windows", "safety"))


@pytest.mark.parametrize(
    ("canary", "stable", "is_failed"),
    [
        (Unsafe(4, 2), Unsafe(0, 0), True),
        (Unsafe(40, 1), Unsafe(0, 0), False),  # one caller who provokes it
        (Unsafe(4, 2), Unsafe(12, 5), False),  # as often as stable at a quarter of the requests
        (Unsafe(12, 6), Unsafe(4, 2), True),
    ],
)
def test_unsafe_answers_to_several_callers_fail_a_canary_at_once(
    canary: Unsafe, stable: Unsafe, is_failed: bool
) -> None:
    evidence = ArmEvidence(steady(20), 0.0, 1.0, unsafe_canary=canary, unsafe_stable=stable)
    verdict = judge(given((), evidence=evidence, elapsed_s=20.0, policy=SAFETY))
    assert (verdict.guard == "safety") == is_failed
    assert judge(given((), evidence=evidence, elapsed_s=20.0)).guard != "safety"


def test_a_planned_z_test_looks_once_and_is_not_swayed_by_what_comes_later() -> None:
    policy = replace(POLICY, min_requests=400, planned_requests=400, guardrails=())
    bad, good = steady(100, (15, 0, 0), (5, 1, 0)), steady(100, (15, 0, 0), (5, 0, 0))
    early = judge(given(bad[:60], policy=policy))
    assert early.kind is VerdictKind.INCONCLUSIVE and "300 of at least 400 canary requests" in early.sentence
    assert judge(given(good[:60], policy=policy)).kind is VerdictKind.INCONCLUSIVE
    found = judge(given(bad, policy=policy))
    assert (found.kind, found.guard, found.checks[0].route) == (VerdictKind.FAIL, "errors", "planned")
    assert "at the planned look" in found.sentence and "1.96 is enough" in found.sentence
    # Bad only after the look: the z-test has spoken already, and says nothing of it.
    later = judge(given((*good, *steady(60, (15, 0, 0), (5, 1, 0), start=1e9 + 100)), policy=policy))
    assert later.kind is not VerdictKind.FAIL


def test_the_sample_sizes_in_the_guide_are_the_ones_of_the_formula() -> None:
    guide = Path(wording.__file__).with_name("JUDGE.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\d.]+) % \| ([\d.]+) % \| (\d+) \|$", guide, re.MULTILINE)
    assert len(rows) == 4
    for stable, canary, wanted in rows:
        assert planned_requests(float(stable) / 100, float(canary) / float(stable), 0.1, 0.025) == int(wanted)


def test_a_plan_without_its_number_is_refused() -> None:
    with pytest.raises(ValueError, match="go together"):
        JudgeConfig(method="z")
    with pytest.raises(ValueError, match="go together"):
        JudgeConfig(planned_requests=100)


def test_a_clients_storm_of_retries_does_not_move_the_verdict() -> None:
    """Case 36: a prompt that fails everywhere is asked again and again by one client, and lands on both tracks."""
    chance = np.random.default_rng(36)
    storm = []
    for second in range(60):
        on_canary = int(chance.binomial(40, 0.25))
        at = 1e9 + 120 + second
        storm.append(
            Interval(at, at + 1, ArmCounts(15 + 40 - on_canary, 40 - on_canary), ArmCounts(5 + on_canary, on_canary))
        )
    during = judge(given((*steady(120), *storm)))
    assert during.kind is not VerdictKind.FAIL
    # All of a short one on the canary, by a session that sticks to it: a burst, counted as one event.
    sticky = Interval(1e9 + 120, 1e9 + 121, ArmCounts(15), ArmCounts(45, 40))
    assert judge(given((*steady(120), sticky))).kind is not VerdictKind.FAIL
