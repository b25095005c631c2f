"""Whether there is evidence at all: which counts cannot be trusted, and when silence becomes NO_DATA. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from adapters.ports import ArmCounts, ArmEvidence, Interval
from engine.rollouts.verdict import JudgeInput
from state.words import NoDataCause

Finding = tuple[NoDataCause, str]


def unusable(given: JudgeInput) -> Finding | None:
    """Why the counts must not be used at all: the source's own trouble, or numbers that cannot be counts."""
    evidence = given.evidence
    if evidence.trouble and not is_unheard(given):
        return _cause_of(evidence.trouble), f"the metrics source has nothing to say: {evidence.trouble}"
    if uncounted := [metric for metric in given.policy.metrics if metric in evidence.lacks]:
        return (
            NoDataCause.SERIES_MISSING,
            f"the metrics source does not count what is to be judged: {', '.join(uncounted)}",
        )
    moments = (given.elapsed_s, evidence.gap_s, 0.0 if evidence.age_s is None else evidence.age_s)
    if not _are_finite(moments) or evidence.gap_s < 0:
        return NoDataCause.NOT_A_NUMBER, "the evidence's own times are not numbers"
    for interval in evidence.intervals:
        if not _are_finite((interval.t0, interval.t1)) or interval.t1 <= interval.t0:
            return NoDataCause.NOT_A_NUMBER, f"an interval runs from {interval.t0} to {interval.t1}"
        for arm, counts in (("stable", interval.stable), ("canary", interval.canary)):
            if problem := _problem(counts):
                return NoDataCause.NOT_A_NUMBER, f"{arm}'s counts cannot be: {problem}"
    return None


def is_unheard(given: JudgeInput) -> bool:
    """The source has said nothing for a moment, for less than `no_data_after_s`: a scrape to come, an answer that was lost."""
    evidence = given.evidence
    is_broken = _cause_of(evidence.trouble) is NoDataCause.NOT_A_NUMBER
    return bool(evidence.trouble) and not is_broken and evidence.trouble_s < given.policy.no_data_after_s


def missing(given: JudgeInput) -> Finding | None:
    """Why there is no evidence: nothing ingested, stale, an idle arm, or more of the step missing than measured.

    Within the first `no_data_after_s` of a step an empty record is a beginning, not a loss.
    """
    evidence, patience = given.evidence, given.policy.no_data_after_s
    if not evidence.intervals:
        if given.elapsed_s < patience:
            return None
        return NoDataCause.SERIES_MISSING, f"nothing was counted in {given.elapsed_s:.0f} s"
    if evidence.age_s is None or abs(evidence.age_s) > patience:
        age = "unknown" if evidence.age_s is None else f"{evidence.age_s:.0f} s"
        return NoDataCause.STALE, f"the age of the newest counts is {age}, and {patience:.0f} s are allowed"
    if idle := _idle(evidence, patience):
        return idle
    covered = covered_s(evidence.intervals)
    if evidence.gap_s >= patience and evidence.gap_s > covered:
        return NoDataCause.GAP, f"{evidence.gap_s:.0f} s of the step are missing and only {covered:.0f} s were measured"
    return None


def covered_s(intervals: Iterable[Interval], since: float = -math.inf) -> float:
    """Seconds after `since` that at least one interval covers; several gateway workers may overlap."""
    total, end = 0.0, since
    for interval in sorted(intervals, key=lambda item: item.t0):
        total += max(0.0, interval.t1 - max(interval.t0, end))
        end = max(end, interval.t1)
    return total


def since_last_hole(intervals: Sequence[Interval], hole_s: float) -> tuple[Interval, ...]:
    """The intervals after the last hole longer than `hole_s` (a suspended host, a lost source)."""
    kept: list[Interval] = []
    end = math.inf
    for interval in sorted(intervals, key=lambda item: item.t0):
        if interval.t0 > end + hole_s:
            kept.clear()
            end = interval.t1
        kept.append(interval)
        end = interval.t1 if end == math.inf else max(end, interval.t1)
    return tuple(kept)


def _idle(evidence: ArmEvidence, patience: float) -> Finding | None:
    busy = [item.t1 for item in evidence.intervals if item.canary.requests > 0]
    last = max(busy, default=-math.inf)
    # Only measured time counts as idle: what fell into a gap may have had traffic.
    idle_s = covered_s(evidence.intervals, last)
    if idle_s < patience:
        return None
    if any(item.stable.requests > 0 for item in evidence.intervals if item.t1 > last):
        return NoDataCause.NO_CANARY_TRAFFIC, f"the canary had no request for {idle_s:.0f} s while stable had some"
    return NoDataCause.NO_TRAFFIC, f"no request came for {idle_s:.0f} s"


def _problem(counts: ArmCounts) -> str | None:
    numbers = (
        *(counts.requests, counts.errors, counts.slow, counts.checked, counts.failed, counts.priced, counts.dear),
        *(counts.busy_s, counts.tokens),
    )
    if not _are_finite(numbers):
        return "a count is not a number"
    if min(numbers) < 0:
        return "a count is negative"
    if counts.errors > counts.requests or counts.slow > counts.requests:
        return f"{counts.errors} errors and {counts.slow} slow of {counts.requests} requests"
    if counts.failed > counts.checked or counts.dear > counts.priced:
        return f"{counts.failed} failed of {counts.checked} checked, {counts.dear} dear of {counts.priced} priced"
    return None


def _are_finite(values: tuple[float, ...]) -> bool:
    try:
        # NaN and infinities survive a sum, and what is no number at all cannot be summed.
        return math.isfinite(sum(values))
    except TypeError:
        return False


def _cause_of(trouble: str) -> NoDataCause:
    slug = trouble.partition(":")[0].strip().lower().replace(" ", "_").replace("-", "_")
    return next((cause for cause in NoDataCause if cause.value == slug), NoDataCause.UNREACHABLE)
