"""One metric of one step: its counts, its e-values, and what they allow one to say. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from adapters.ports import ArmCounts, Interval
from engine.rollouts import statistics
from engine.rollouts.guardrails import Window, bad_run, is_common_mode, shared_outage
from engine.rollouts.statistics import HARM_RATIOS, Split, e_value, log_e
from engine.rollouts.verdict import JudgePolicy, MetricCheck, Tally
from state.words import VerdictKind


@dataclass(frozen=True, slots=True)
class MetricFinding:
    """A check, the windows that decided it if any, and how many more canary requests it wants (None: no amount)."""

    check: MetricCheck
    run: tuple[Window, ...]
    needs_requests: int | None


def examine(
    metric: str, intervals: Sequence[Interval], windows: Sequence[Window], policy: JudgePolicy, *, has_stable_arm: bool
) -> MetricFinding:
    """Judge one metric on all its intervals. Nothing here knows about sample minimums or other metrics."""
    limit, alpha = policy.limit_of(metric), policy.metric_alpha
    bins, are_short = _bins(intervals, metric, policy.bad_window_s)
    splits = [split for one_bin in bins for split in one_bin]
    total = _sum(splits)
    canary, stable = Tally(total.canary_requests, total.canary_bad), Tally(total.stable_requests, total.stable_bad)
    better: tuple[float, ...] = ()
    if has_stable_arm:
        counts = [(bad.canary_bad, bad.stable_bad) for bad in map(_sum, bins)]
        harm = [statistics.split_logs(one_bin, HARM_RATIOS) for one_bin in bins]
        better = statistics.split_logs(splits, statistics.better_ratios(policy.margin), 1 + policy.margin)
    else:
        stable = Tally()
        counts = [(bad.canary_bad, 0.0) for bad in map(_sum, bins)]
        harm = [statistics.own_above_logs(bad.canary_bad, bad.canary_requests, limit) for bad in map(_sum, bins)]
    burst = statistics.burst_factor(counts, from_zero=are_short)
    below = statistics.own_below_logs(canary.bad, canary.requests, limit)
    steady = log_e(statistics.without_loudest_burst(harm) if are_short else statistics.add_logs(harm))
    evidence = _Evidence(
        harm=min(log_e(statistics.add_logs(harm), burst), steady),
        steady_harm=steady,
        noninferior=log_e(better, burst),
        below_slo=log_e(below),
        enough=-math.log(alpha),
    )
    kind, route, run = _decide(
        evidence,
        shared=has_stable_arm and is_common_mode(stable, canary, limit),
        outage=shared_outage(windows, metric, limit) if has_stable_arm else (),
        run=bad_run(windows, metric, limit, alpha, has_stable_arm=has_stable_arm)
        if "bad_windows" in policy.guardrails
        else (),
    )
    measured = has_stable_arm and canary.rate is not None and stable.rate is not None
    check = MetricCheck(
        metric=metric,
        kind=kind,
        route=route,
        stable=stable,
        canary=canary,
        stable_rate=stable.rate,
        canary_rate=canary.rate,
        effect=(canary.rate or 0.0) - (stable.rate or 0.0) if measured else None,
        interval=statistics.difference_interval(total, alpha) if measured else None,
        upper_bound=statistics.upper_bound(canary.bad, canary.requests, alpha),
        e_harm=e_value(evidence.harm),
        e_noninferior=e_value(evidence.noninferior),
        e_below_slo=e_value(evidence.below_slo),
        threshold=1 / alpha,
        limit=limit,
        burst=burst,
        z_score=statistics.z_score(total) if has_stable_arm else None,
    )
    return MetricFinding(check, run, _needs(check, better, below, alpha))


@dataclass(frozen=True, slots=True)
class _Evidence:
    """Logs of the e-values. `harm` counts a burst once and leaves out the loudest; `steady_harm` only the latter."""

    harm: float
    steady_harm: float
    noninferior: float
    below_slo: float
    enough: float


def _decide(
    evidence: _Evidence, *, shared: bool, outage: tuple[Window, ...], run: tuple[Window, ...]
) -> tuple[VerdictKind, str, tuple[Window, ...]]:
    is_worse = evidence.harm >= evidence.enough
    is_fine_beside_stable = evidence.noninferior >= evidence.enough
    if outage or (shared and (is_worse or is_fine_beside_stable)):
        # Being no worse than a stable that misses its objective is nothing to move forward on.
        return VerdictKind.INCONCLUSIVE, "both_above_slo", outage
    if is_worse or run:
        return VerdictKind.FAIL, "worse", () if is_worse else run
    if evidence.steady_harm >= evidence.enough:
        # Several bursts: too lumpy to blame the canary for, too much to let it pass. Unlike the burst factor this
        # part only rises with the canary's bad events, so more of them can never turn a FAIL into a PASS.
        return VerdictKind.INCONCLUSIVE, "", ()
    if evidence.below_slo >= evidence.enough:
        return VerdictKind.PASS, "below_slo", ()
    if is_fine_beside_stable:
        return VerdictKind.PASS, "non_inferior", ()
    return VerdictKind.INCONCLUSIVE, "", ()


def _needs(check: MetricCheck, better: Sequence[float], below: Sequence[float], alpha: float) -> int | None:
    if check.kind is VerdictKind.PASS:
        return 0
    if check.canary.requests <= 0:
        return statistics.requests_to_pass(check.limit, alpha)
    grown = (
        statistics.growth_needed(better, alpha, check.burst),
        statistics.growth_needed(below, alpha),
    )
    factors = [factor for factor in grown if factor is not None]
    return max(1, math.ceil((min(factors) - 1) * check.canary.requests - 1e-6)) if factors else None


def _sum(splits: Sequence[Split]) -> Split:
    return Split(
        sum(split.canary_bad for split in splits),
        sum(split.canary_requests for split in splits),
        sum(split.stable_bad for split in splits),
        sum(split.stable_requests for split in splits),
    )


def _bins(intervals: Sequence[Interval], metric: str, window_s: float) -> tuple[list[list[Split]], bool]:
    """The intervals in bins of a third of a bad window, oldest first, counted back from the newest; are they short?

    Intervals longer than that are bins of their own. One as long as a bad window is no hiccup: then bursts are
    not looked for at the step's start, nor is one left out.
    """
    if not intervals:
        return [], True
    bin_s = max(window_s / 3, max(item.t1 - item.t0 for item in intervals))
    end = max(item.t1 for item in intervals)
    is_errors = metric == "errors"
    bins: dict[int, list[Split]] = {}
    for item in intervals:  # thousands of them in a long step, so this stays plain
        canary, stable = item.canary, item.stable
        split = (
            Split(canary.errors, canary.requests, stable.errors, stable.requests)
            if is_errors
            else Split(canary.slow, canary.requests, stable.slow, stable.requests)
        )
        bins.setdefault(math.floor((end - (item.t0 + item.t1) / 2) / bin_s), []).append(split)
    return [bins[index] for index in sorted(bins, reverse=True)], bin_s < window_s


def measured_split(total_stable: ArmCounts, total_canary: ArmCounts) -> float | None:
    """The canary's share of all requests; None without any."""
    everything = total_stable.requests + total_canary.requests
    return total_canary.requests / everything if everything > 0 else None
