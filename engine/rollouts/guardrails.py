"""What acts without waiting for the sequential test: runs of bad windows, and an outage both arms share. Pure.

Windows are arrays of counts whose last axis is time, as in `statistics`.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from adapters.ports import Unsafe
from engine.rollouts.statistics import HARM_RATIOS, Array, Split, log_e, own_above_logs, split_logs

RUN = 3
"""Bad windows in a row that act."""
MIN_BAD = 3
"""Bad canary events a window needs before it can be called bad: two unlucky requests are no outage."""
RUN_ALPHA_SHARE = 0.1
"""What all runs of a step together may spend, as a part of the metric's alpha, besides what the sequential test may."""
AS_BAD_RATIO = 1.5
"""Stable is as bad as the canary up to this ratio: the smallest harm the sequential test looks for."""

_NEGLIGIBLE = 1e-12
UNSAFE_CALLERS = 2
"""One caller who provokes unsafe answers rolls back nothing."""

Flags = npt.NDArray[np.bool_]


def is_common_mode(of: Split, limit: float) -> Flags:
    """Both arms miss the objective and stable is as bad: whatever it is, the canary did not bring it."""
    stable, canary = _rates(of)
    return (stable > limit) & (canary > limit) & (canary <= stable * AS_BAD_RATIO)


def bad_runs(windows: Split, bursts: Array, limit: float, alpha: float, *, has_stable_arm: bool) -> Flags:
    """After which windows a run of bad ones is more than bad luck; `windows` follow each other without a hole.

    A window is bad when the canary has at least MIN_BAD bad events, misses the objective, and does worse than stable.
    The run must also carry weight: its own windows, taken alone and with a burst (`bursts`, at each window's end) counted
    as one event, must show the canary worse than stable, or above an objective that stable meets. What is enough rises
    with the window's number i, by (i+1)(i+2), so that all runs there ever are spend RUN_ALPHA_SHARE of `alpha` at most:
    else a service living near its objective would be rolled back by chance within a day.
    """
    stable, canary = _rates(windows)
    bad = (windows.canary_bad >= MIN_BAD) & (canary > limit)
    run = _runs(windows)
    number = np.arange(windows.canary_bad.shape[-1])
    enough = np.log((number + 1.0) * (number + 2.0)) - math.log(alpha * RUN_ALPHA_SHARE)
    above = log_e(own_above_logs(run.canary_bad, run.canary_requests, limit), bursts)
    if not has_stable_arm:
        return _all_of_run(bad) & (above >= enough)
    worse = log_e(_summed(split_logs(windows, HARM_RATIOS)), bursts)
    stable_meets = ~(_rates(run)[0] > limit)
    # Either of two tests may speak, so each has half.
    heavy = np.maximum(worse, np.where(stable_meets, above, -np.inf)) >= enough + math.log(2)
    return _all_of_run(bad & (canary > np.nan_to_num(stable))) & heavy & ~is_common_mode(run, limit)


def is_unsafe(canary: Unsafe, stable: Unsafe, share: float | None, alpha: float) -> bool:
    """The canary's answers are unsafe to several callers, and more often than stable's by more than chance.

    Of all k unsafe answers the canary gave c: as many or more have to have a probability of at most `alpha` at its measured
    `share` of the requests. It acts at once and is no sequential test.
    """
    if canary.callers < UNSAFE_CALLERS or share is None or share >= 1:
        return False
    total = canary.answers + stable.answers
    return share <= 0 or _at_least(canary.answers, total, share) <= alpha


def _at_least(successes: int, trials: int, rate: float) -> float:
    """The binomial probability of so many successes or more; 1 for what is no more than expected. `rate` within (0, 1).

    From the first term upwards, each a multiple of the one before: factorials of a thousand answers are no floats.
    """
    if successes <= trials * rate:
        return 1.0
    ways = math.lgamma(trials + 1) - math.lgamma(successes + 1) - math.lgamma(trials - successes + 1)
    term = math.exp(ways + successes * math.log(rate) + (trials - successes) * math.log1p(-rate))
    chance, odds = 0.0, rate / (1 - rate)
    while term > chance * _NEGLIGIBLE:
        chance += term
        term *= (trials - successes) / (successes + 1) * odds
        successes += 1
    return chance


def shared_outages(windows: Split, limit: float) -> Flags:
    """After which windows both arms have missed the objective alike for a whole run."""
    stable, canary = _rates(windows)
    both = (np.minimum(windows.stable_bad, windows.canary_bad) >= MIN_BAD) & (stable > limit) & (canary > limit)
    return _all_of_run(both) & is_common_mode(_runs(windows), limit)


def _rates(of: Split) -> tuple[Array, Array]:
    """Stable's and the canary's share of bad requests; NaN without requests, which is above no limit and below none."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return of.stable_bad / of.stable_requests, of.canary_bad / of.canary_requests


def _runs(windows: Split) -> Split:
    fields = (windows.canary_bad, windows.canary_requests, windows.stable_bad, windows.stable_requests)
    return Split(*(_summed(field) for field in fields))


def _summed(counts: Array) -> Array:
    """Each window with the RUN - 1 before it."""
    total = counts.copy()
    for back in range(1, RUN):
        total[..., back:] += counts[..., :-back]
    return total


def _all_of_run(flags: Flags) -> Flags:
    found = flags.copy()
    found[..., : RUN - 1] = False
    for back in range(1, RUN):
        found[..., back:] &= flags[..., :-back]
    return found
