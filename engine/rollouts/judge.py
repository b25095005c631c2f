"""The judge: counts of a step in, a verdict out. Pure: no clock, no I/O. `JUDGE.md` explains every number.

The order is the policy: a crash loop, then counts that cannot be trusted, then harm, then missing evidence, then an
outage both tracks share, and only then whether there is enough to pass. Nothing later can hide anything earlier.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from adapters.ports import ArmCounts, Interval
from engine.rollouts import wording
from engine.rollouts.bounds import requests_to_pass
from engine.rollouts.checks import MetricFinding, examine, measured_split
from engine.rollouts.coverage import covered_s, is_unheard, missing, since_last_hole, unusable
from engine.rollouts.guardrails import is_unsafe
from engine.rollouts.planned import POWER_RATIO, seconds_to_find
from engine.rollouts.verdict import (
    METRICS,
    JudgeInput,
    JudgePolicy,
    MetricCheck,
    Tally,
    Verdict,
    verdict_from_json,
    verdict_to_json,
)
from state.words import NoDataCause, VerdictKind

__all__ = [
    "JudgeInput",
    "JudgePolicy",
    "MetricCheck",
    "Tally",
    "Verdict",
    "judge",
    "requests_to_pass",
    "verdict_from_json",
    "verdict_to_json",
]


def judge(given: JudgeInput) -> Verdict:
    """What the evidence of one step allows one to say. Never raises on evidence, however broken."""
    policy = given.policy
    if given.crash_loop is not None and "crash_loop" in policy.guardrails:
        return Verdict(VerdictKind.FAIL, wording.sentence(f"crash loop: {given.crash_loop}"), guard="crash_loop")
    if broken := unusable(given):
        return _no_data(*broken)
    if is_unheard(given):
        evidence, patience = given.evidence, policy.no_data_after_s
        text = f"the metrics source has said nothing for {evidence.trouble_s:.0f} s, and {patience:.0f} s are allowed: {evidence.trouble}"
        return Verdict(VerdictKind.INCONCLUSIVE, wording.sentence(text), guard="no_data")
    intervals = given.evidence.intervals
    findings = tuple(
        examine(metric, intervals, policy, has_stable_arm=given.has_stable_arm) for metric in policy.metrics
    )
    checks = tuple(finding.check for finding in findings)
    split, note = _split(given)
    if failed := _worst(findings):
        if failed.run:
            text, guard = wording.failed_windows(failed, policy.bad_window_s), "bad_windows"
        else:
            text, guard = wording.failed_sequential(failed.check), failed.check.metric
        return Verdict(
            VerdictKind.FAIL, wording.sentence(text + note), checks=checks, guard=guard, measured_split=split
        )
    canary, stable = given.evidence.unsafe_canary, given.evidence.unsafe_stable
    is_watched = "safety" in policy.guardrails and given.has_stable_arm
    if is_watched and is_unsafe(canary, stable, split, policy.alpha):
        text = wording.unsafe(canary, stable) + note
        return Verdict(VerdictKind.FAIL, wording.sentence(text), checks=checks, guard="safety", measured_split=split)
    if absent := missing(given):
        return _no_data(*absent, checks=checks, split=split)
    is_over = given.elapsed_s >= policy.max_s
    if alike := [finding for finding in findings if finding.check.route == "both_above_slo"]:
        return Verdict(
            VerdictKind.INCONCLUSIVE,
            wording.sentence(wording.shared(alike) + note),
            checks=checks,
            guard="common_mode",
            measured_split=split,
            expired=is_over,
            common_mode=True,
        )
    fresh = sum(item.canary.requests for item in since_last_hole(intervals, policy.no_data_after_s))
    if fresh >= policy.min_requests and all(check.kind is VerdictKind.PASS for check in checks):
        text = wording.passed(checks, policy) + note
        return Verdict(VerdictKind.PASS, wording.sentence(text), checks=checks, guard="evidence", measured_split=split)
    needs = _needs(findings, policy.min_requests - fresh)
    needs_s = _seconds(needs, intervals)
    text = (
        wording.waiting(findings, policy, fresh, needs_s) + _power(findings, policy, intervals, measured=split) + note
    )
    return Verdict(
        VerdictKind.INCONCLUSIVE,
        wording.sentence(text + (wording.expired(policy.max_s) if is_over else "")),
        checks=checks,
        measured_split=split,
        needs_requests=needs,
        needs_s=needs_s,
        expired=is_over,
    )


def _no_data(
    cause: NoDataCause, text: str, checks: tuple[MetricCheck, ...] = (), split: float | None = None
) -> Verdict:
    sentence = wording.sentence(text)
    return Verdict(VerdictKind.NO_DATA, sentence, cause=cause, checks=checks, guard="no_data", measured_split=split)


def _worst(findings: Sequence[MetricFinding]) -> MetricFinding | None:
    failed = [finding for finding in findings if finding.check.kind is VerdictKind.FAIL]
    return max(failed, key=lambda finding: finding.check.e_harm, default=None)


def _split(given: JudgeInput) -> tuple[float | None, str]:
    intervals = given.evidence.intervals
    stable = sum((item.stable for item in intervals), ArmCounts())
    canary = sum((item.canary for item in intervals), ArmCounts())
    measured = measured_split(stable, canary)
    note = "; stable is the baseline track here"
    if not given.evidence.is_baseline:
        note = wording.split_note(measured, given.configured_weight_pct, stable.requests + canary.requests)
    policy = given.policy
    if "cost" in policy.metrics:
        note += wording.cost_note(stable, canary, policy.usd_per_hour)
    return measured, note + wording.alpha_note(policy) + wording.gap_note(given.evidence.gap_s)


def _needs(findings: Sequence[MetricFinding], short_of_minimum: float) -> int | None:
    counted = findings[0].check.canary.requests
    wanted = [_in_requests(finding, counted) for finding in findings]
    known = [need for need in wanted if need is not None]
    return max([1, int(short_of_minimum), *known]) if len(known) == len(wanted) else None


def _power(
    findings: Sequence[MetricFinding], policy: JudgePolicy, intervals: Sequence[Interval], measured: float | None
) -> str:
    """What this step can find, and when: of the errors, at the traffic and stable's rate so far."""
    errors, seconds = findings[0].check, covered_s(intervals)
    if not errors.stable.bad or not measured or seconds <= 0:
        return ""
    rate = errors.stable.bad / errors.stable.requests
    rps = (errors.stable.requests + errors.canary.requests) / seconds
    return wording.power_note(rate, POWER_RATIO, seconds_to_find(rps, measured, rate, POWER_RATIO, policy.metric_alpha))


def _in_requests(finding: MetricFinding, counted: float) -> int | None:
    """What the finding needs, in canary requests: only some of them are checked, or have a price."""
    need, seen = finding.needs_requests, finding.check.canary.requests
    if not need or finding.check.metric in METRICS:
        return need
    return math.ceil(need * counted / seen) if seen > 0 else None


def _seconds(needs: int | None, intervals: Sequence[Interval]) -> float | None:
    counted = sum(item.canary.requests for item in intervals)
    return needs / counted * covered_s(intervals) if needs is not None and counted > 0 else None
