"""One metric of one step: its counts, its e-values, and what they allow one to say. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from adapters.ports import ArmCounts, Interval
from engine.rollouts import bounds, statistics
from engine.rollouts.guardrails import RUN, Flags, bad_runs, is_common_mode, shared_outages
from engine.rollouts.planned import planned_z, z_critical, z_score
from engine.rollouts.series import Series, series_of
from engine.rollouts.statistics import HARM_RATIOS, Array, Split, e_value, log_e
from engine.rollouts.verdict import JudgePolicy, MetricCheck, Tally
from state.words import VerdictKind

CAP_SHARE = 0.5
"""The part of what is enough for a FAIL that a single burst may contribute."""


@dataclass(frozen=True, slots=True)
class MetricFinding:
    """A check, the canary's bad windows that decided it if any, and how many more requests it wants (None: no amount)."""

    check: MetricCheck
    run: tuple[Tally, ...]
    needs_requests: int | None


def examine(metric: str, intervals: Sequence[Interval], policy: JudgePolicy, *, has_stable_arm: bool) -> MetricFinding:
    """Judge one metric on all its intervals. Nothing here knows about sample minimums or other metrics."""
    limit, alpha = policy.limit_of(metric), policy.metric_alpha
    series = series_of(metric, intervals, policy.bad_window_s)
    if series is None:
        return _nothing_yet(metric, limit, alpha)
    canary_bad, canary_requests, stable_bad, stable_requests = series.split.total()
    canary = Tally(canary_requests, canary_bad)
    stable = Tally(stable_requests, stable_bad) if has_stable_arm else Tally()
    bins = bins_of(series, policy.margin, limit, has_stable_arm=has_stable_arm)
    evidence = weigh(bins, (bins.counts.canary_bad.shape[-1] - 1,), series.block, limit, alpha)
    burst = float(evidence.burst[-1])
    bursts = bins.bursts()[series.last_bin_of]
    planned = policy.planned_requests if has_stable_arm else 0
    z = planned_z(series.split, planned) if planned else None
    runs = bad_runs(series.windows, bursts, limit, alpha, has_stable_arm=has_stable_arm)
    run = _first_run(series.windows, runs) if "bad_windows" in policy.guardrails else ()
    outage = shared_outages(series.windows, limit)[-1:].any()
    said = decide(
        _by_plan(evidence, z, alpha) if planned else evidence,
        alpha,
        shared=is_common_mode(_one(series.split), limit) & has_stable_arm,
        outage=np.array([outage and has_stable_arm]),
        run=np.array([bool(run)]),
    )
    kind, route = _spoken(said)
    if planned and said.is_worse[-1] and kind is VerdictKind.FAIL:
        route = "planned"
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
        interval=bounds.difference_interval((canary_bad, canary_requests), (stable_bad, stable_requests), alpha)
        if measured
        else None,
        upper_bound=bounds.upper_bound(canary_bad, canary_requests, alpha),
        e_harm=e_value(float(evidence.harm[-1])),
        e_noninferior=e_value(float(evidence.noninferior[-1])),
        e_below_slo=e_value(float(evidence.below_slo[-1])),
        threshold=1 / alpha,
        limit=limit,
        burst=burst,
        z_score=z
        if planned
        else z_score(canary_bad, canary_requests, stable_bad, stable_requests)
        if has_stable_arm
        else None,
    )
    below = statistics.own_below_logs(canary_bad, canary_requests, limit)
    better = bins.better.sum(axis=-1)
    return MetricFinding(check, () if said.is_worse[-1] else run, _needs(check, better, below, alpha))


@dataclass(frozen=True, slots=True)
class Bins:
    """A metric's counts and log likelihood ratios in bins; the last axis is time. `better` is empty without stable."""

    counts: Split
    harm: Array
    better: Array
    is_coarse: bool

    def bursts(self) -> Array:
        """How many bad events come together, after each bin."""
        counts = self.counts
        return statistics.burst_factors(counts.canary_bad, counts.stable_bad, from_zero=not self.is_coarse)


def bins_of(series: Series, margin: float, limit: float, *, has_stable_arm: bool) -> Bins:
    """The bins of a step. Each interval has its own measured split; what they say adds up."""
    counts = series.bins
    if not has_stable_arm:
        alone = replace(counts, stable_bad=np.zeros_like(counts.canary_bad))
        harm = statistics.own_above_logs(counts.canary_bad, counts.canary_requests, limit)
        return Bins(alone, harm, np.zeros((0, *counts.canary_bad.shape)), series.is_coarse)
    better = statistics.split_logs(series.split, statistics.better_ratios(margin), 1 + margin)
    harm = statistics.split_logs(series.split, HARM_RATIOS)
    return Bins(counts, series.binned(harm), series.binned(better), series.is_coarse)


@dataclass(frozen=True, slots=True)
class Evidence:
    """Logs of the e-values at each look, and the burst factor.

    `harm` counts a burst as one event and caps the loudest; `steady_harm` only the latter.
    """

    harm: Array
    steady_harm: Array
    noninferior: Array
    below_slo: Array
    burst: Array


def weigh(bins: Bins, looks: Sequence[int], block: int, limit: float, alpha: float) -> Evidence:
    """The e-values of all bins up to each of `looks`, for one run of bins or for many at once."""
    counts, at = bins.counts, np.asarray(looks)
    bursts = bins.bursts()
    cap = math.inf if bins.is_coarse else -CAP_SHARE * math.log(alpha)
    found = statistics.harm_logs(bins.harm, bursts, looks, block, cap)
    better = np.cumsum(bins.better, axis=-1)[..., at]
    bad, requests = (np.cumsum(field, axis=-1)[..., at] for field in (counts.canary_bad, counts.canary_requests))
    return Evidence(
        harm=np.minimum(found.thinned, found.steady),
        steady_harm=found.steady,
        noninferior=log_e(better, bursts[..., at]) if len(better) else np.zeros_like(found.steady),
        below_slo=log_e(statistics.own_below_logs(bad, requests, limit)),
        burst=bursts[..., at],
    )


@dataclass(frozen=True, slots=True)
class Said:
    """What one metric's evidence says at each look; at most one of the first three."""

    is_shared: Flags
    fails: Flags
    passes: Flags
    is_worse: Flags
    """The sequential test alone has enough for a FAIL."""
    is_below: Flags
    """Below the objective's limit."""


def decide(evidence: Evidence, alpha: float, *, shared: Flags, outage: Flags, run: Flags) -> Said:
    """From evidence to FAIL, PASS or neither, at each look."""
    enough = -math.log(alpha)
    worse, fine = evidence.harm >= enough, evidence.noninferior >= enough
    # Being no worse than a stable that misses its objective is nothing to move forward on.
    is_shared = outage | (shared & (worse | fine))
    fails = ~is_shared & (worse | run)
    # Several bursts: too lumpy to blame the canary for, too much to let it pass. Unlike the burst factor this
    # part only rises with the canary's bad events, so more of them can never turn a FAIL into a PASS.
    is_held = evidence.steady_harm >= enough
    below = evidence.below_slo >= enough
    passes = ~is_shared & ~fails & ~is_held & (below | fine)
    return Said(is_shared, fails, passes, worse, below)


def _by_plan(evidence: Evidence, z: float | None, alpha: float) -> Evidence:
    """The evidence with the planned look's word on harm in place of the sequential test's."""
    word = np.array([math.inf if z is not None and z >= z_critical(alpha) else 0.0])
    return replace(evidence, harm=word, steady_harm=word)


def _spoken(said: Said) -> tuple[VerdictKind, str]:
    if said.is_shared[-1]:
        return VerdictKind.INCONCLUSIVE, "both_above_slo"
    if said.fails[-1]:
        return VerdictKind.FAIL, "worse"
    if said.passes[-1]:
        return VerdictKind.PASS, "below_slo" if said.is_below[-1] else "non_inferior"
    return VerdictKind.INCONCLUSIVE, ""


def _needs(check: MetricCheck, better: Array, below: Array, alpha: float) -> int | None:
    if check.kind is VerdictKind.PASS:
        return 0
    if check.canary.requests <= 0:
        return bounds.requests_to_pass(check.limit, alpha)
    grown = (
        bounds.growth_needed(better, alpha, check.burst),
        bounds.growth_needed(below, alpha),
    )
    factors = [factor for factor in grown if factor is not None]
    return max(1, math.ceil((min(factors) - 1) * check.canary.requests - 1e-6)) if factors else None


def _nothing_yet(metric: str, limit: float, alpha: float) -> MetricFinding:
    check = MetricCheck(
        metric=metric,
        kind=VerdictKind.INCONCLUSIVE,
        route="",
        stable=Tally(),
        canary=Tally(),
        stable_rate=None,
        canary_rate=None,
        effect=None,
        interval=None,
        upper_bound=1.0,
        e_harm=1.0,
        e_noninferior=1.0,
        e_below_slo=1.0,
        threshold=1 / alpha,
        limit=limit,
        burst=1.0,
        z_score=None,
    )
    return MetricFinding(check, (), bounds.requests_to_pass(limit, alpha))


def _first_run(windows: Split, runs: Flags) -> tuple[Tally, ...]:
    ends = np.flatnonzero(runs)
    if not len(ends):
        return ()
    last = int(ends[0]) + 1
    counts = zip(windows.canary_requests[last - RUN : last], windows.canary_bad[last - RUN : last], strict=True)
    return tuple(Tally(float(requests), float(bad)) for requests, bad in counts)


def _one(split: Split) -> Split:
    """Everything as a single interval."""
    return Split(*(np.array([value]) for value in split.total()))


def measured_split(total_stable: ArmCounts, total_canary: ArmCounts) -> float | None:
    """The canary's share of all requests; None without any."""
    everything = total_stable.requests + total_canary.requests
    return total_canary.requests / everything if everything > 0 else None
