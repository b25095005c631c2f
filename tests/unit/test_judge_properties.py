"""What holds for any evidence at all."""

from __future__ import annotations

import math
from dataclasses import replace

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from adapters.ports import ArmCounts, ArmEvidence, Interval
from engine.rollouts import bounds, statistics
from engine.rollouts.judge import JudgeInput, JudgePolicy, Verdict, judge
from state.words import VerdictKind

POLICY = JudgePolicy(1.0, 0.05, 40, 600, 60, 0.05, 0.05, ("crash_loop", "bad_windows"), 10)
QUICK = settings(max_examples=80, deadline=None)


@st.composite
def arms(draw: st.DrawFn, most: int = 60) -> ArmCounts:
    requests = draw(st.integers(0, most))
    return ArmCounts(requests, draw(st.integers(0, requests)), draw(st.integers(0, requests)))


@st.composite
def evidences(draw: st.DrawFn) -> ArmEvidence:
    """Busy and idle intervals of a second to half a minute, sometimes healthy throughout, sometimes with holes."""
    clean = draw(st.booleans())
    at, intervals = 0.0, []
    for _ in range(draw(st.integers(1, 25))):
        length = draw(st.sampled_from([1.0, 1.0, 5.0, 30.0]))
        stable, canary = draw(arms()), draw(arms())
        if clean:
            canary = replace(canary, errors=0, slow=0)
        intervals.append(Interval(at, at + length, stable, canary))
        at += length + draw(st.sampled_from([0.0, 0.0, 0.0, 90.0]))
    return ArmEvidence(tuple(intervals), gap_s=0.0, age_s=draw(st.sampled_from([0.0, 1.0, 200.0])))


def look(evidence: ArmEvidence, *, has_stable_arm: bool = True, policy: JudgePolicy = POLICY) -> Verdict:
    return judge(JudgeInput(evidence, policy, 300.0, has_stable_arm, None, 50))


@QUICK
@given(evidences(), st.booleans())
def test_nothing_passes_without_the_least_number_of_canary_requests(evidence: ArmEvidence, stable: bool) -> None:
    verdict = look(evidence, has_stable_arm=stable)
    counted = sum(item.canary.requests for item in evidence.intervals)
    assert verdict.kind is not VerdictKind.PASS or counted >= POLICY.min_requests


@QUICK
@given(evidences(), st.booleans(), st.data())
def test_more_bad_canary_events_never_turn_a_fail_into_a_pass(
    evidence: ArmEvidence, stable: bool, data: st.DataObject
) -> None:
    before = look(evidence, has_stable_arm=stable)
    worse = []
    for item in evidence.intervals:
        canary = item.canary
        errors = data.draw(st.integers(canary.errors, canary.requests))
        slow = data.draw(st.integers(canary.slow, canary.requests))
        worse.append(replace(item, canary=ArmCounts(canary.requests, errors, slow)))
    after = look(replace(evidence, intervals=tuple(worse)), has_stable_arm=stable)
    assert not (before.kind is VerdictKind.FAIL and after.kind is VerdictKind.PASS)


@QUICK
@given(evidences(), st.sampled_from([math.nan, math.inf, -math.inf, -1]), st.integers(0, 5), st.data())
def test_a_count_that_is_no_number_never_passes_or_fails(
    evidence: ArmEvidence, poison: float, field: int, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(evidence.intervals) - 1))
    item = evidence.intervals[index]
    name = ("requests", "errors", "slow")[field % 3]
    arm = "stable" if field < 3 else "canary"
    broken = replace(item, **{arm: replace(getattr(item, arm), **{name: poison})})
    intervals = (*evidence.intervals[:index], broken, *evidence.intervals[index + 1 :])
    assert look(replace(evidence, intervals=intervals)).kind is VerdictKind.NO_DATA


@QUICK
@given(evidences(), st.booleans(), st.randoms(use_true_random=False))
def test_the_order_in_which_intervals_are_given_does_not_matter(evidence: ArmEvidence, stable: bool, chance) -> None:  # type: ignore[no-untyped-def]
    shuffled = list(evidence.intervals)
    chance.shuffle(shuffled)
    one, other = (
        look(evidence, has_stable_arm=stable),
        look(replace(evidence, intervals=tuple(shuffled)), has_stable_arm=stable),
    )
    assert (one.kind, one.guard, one.cause) == (other.kind, other.guard, other.cause)


@QUICK
@given(evidences(), st.booleans())
def test_every_number_of_a_verdict_is_finite_and_every_sentence_ends(evidence: ArmEvidence, stable: bool) -> None:
    verdict = look(evidence, has_stable_arm=stable)
    assert verdict.sentence.endswith(".") and "nan" not in verdict.sentence
    for check in verdict.checks:
        numbers = (check.e_harm, check.e_noninferior, check.e_below_slo, check.upper_bound, check.burst)
        assert all(math.isfinite(number) and number >= 0 for number in numbers)
        if check.effect is not None and check.interval is not None:
            assert check.interval[0] <= check.effect + 1e-9 and check.effect - 1e-9 <= check.interval[1]


@QUICK
@given(evidences(), st.sampled_from([61.0, 1e6, -61.0]))
def test_stale_evidence_never_passes(evidence: ArmEvidence, age_s: float) -> None:
    assert look(replace(evidence, age_s=age_s)).kind is not VerdictKind.PASS


@QUICK
@given(st.integers(1, 5000), st.integers(0, 50), st.floats(0.001, 0.9), st.floats(0.001, 0.2))
def test_the_upper_bound_is_below_a_limit_exactly_when_the_test_against_it_rejects(
    requests: int, bad: int, limit: float, alpha: float
) -> None:
    assume(bad <= requests)
    log_value = statistics.log_e(statistics.own_below_logs(bad, requests, limit))
    assume(abs(log_value + math.log(alpha)) > 1e-6)
    assert (bounds.upper_bound(bad, requests, alpha) < limit) == (log_value >= -math.log(alpha))


@QUICK
@given(st.floats(0.001, 0.5), st.floats(0.001, 0.2), st.integers(0, 8))
def test_requests_to_pass_is_the_smallest_number_that_passes(limit: float, alpha: float, bad: int) -> None:
    wanted = bounds.requests_to_pass(limit, alpha, bad)
    enough = -math.log(alpha)
    assert statistics.log_e(statistics.own_below_logs(bad, wanted, limit)) >= enough
    assert wanted <= bad or statistics.log_e(statistics.own_below_logs(bad, wanted - 1, limit)) < enough
