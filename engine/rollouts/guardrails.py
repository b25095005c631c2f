"""What acts without waiting for the sequential test: runs of bad windows, and an outage both arms share. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from adapters.ports import ArmCounts, Interval
from engine.rollouts.statistics import HARM_RATIOS, Split, log_e, own_above_logs, split_logs
from engine.rollouts.verdict import Tally

RUN = 3
"""Bad windows in a row that act."""
MIN_BAD = 3
"""Bad canary events a window needs before it can be called bad: two unlucky requests are no outage."""
RUN_ALPHA_SHARE = 0.1
"""The part of a metric's alpha that one run of windows is tested at."""
AS_BAD_RATIO = 1.5
"""Stable is as bad as the canary up to this ratio: the smallest harm the sequential test looks for."""


@dataclass(frozen=True, slots=True)
class Window:
    """Both arms in one complete window; `index` counts from the step's first interval."""

    index: int
    stable: ArmCounts
    canary: ArmCounts


def tally(counts: ArmCounts, metric: str) -> Tally:
    """The metric's view of an arm's counts."""
    return Tally(counts.requests, counts.errors if metric == "errors" else counts.slow)


def windows_of(intervals: Sequence[Interval], window_s: float) -> tuple[Window, ...]:
    """The complete windows of `window_s` seconds that have any counts, oldest first."""
    if not intervals:
        return ()
    start, end = min(item.t0 for item in intervals), max(item.t1 for item in intervals)
    # Interval ends are sums of floats; a window is complete when only rounding is missing.
    complete = math.floor((end - start) / window_s + 1e-6)
    arms: dict[int, tuple[ArmCounts, ArmCounts]] = {}
    for item in intervals:
        index = math.floor(((item.t0 + item.t1) / 2 - start) / window_s)
        if index < complete:
            stable, canary = arms.get(index, (ArmCounts(), ArmCounts()))
            arms[index] = (stable + item.stable, canary + item.canary)
    return tuple(Window(index, *arms[index]) for index in sorted(arms))


def is_common_mode(stable: Tally, canary: Tally, limit: float) -> bool:
    """Both arms miss the objective and stable is as bad: whatever it is, the canary did not bring it."""
    if stable.rate is None or canary.rate is None:
        return False
    return stable.rate > limit and canary.rate > limit and canary.rate <= stable.rate * AS_BAD_RATIO


def bad_run(
    windows: Sequence[Window], metric: str, limit: float, alpha: float, *, has_stable_arm: bool
) -> tuple[Window, ...]:
    """The first run of bad windows that together are more than bad luck, or ().

    A window is bad when the canary has at least MIN_BAD bad events, misses the objective, and does worse than stable.
    The run must also carry weight: its own windows, taken alone, must show the canary worse than stable, or above an
    objective that stable meets, at a tenth of `alpha` (there are many runs in a step). Without that a service living
    near its objective would be rolled back by chance.
    """
    for run in _runs(windows):
        pairs = [(tally(window.stable, metric), tally(window.canary, metric)) for window in run]
        if not all(_is_bad(stable, canary, limit, has_stable_arm) for stable, canary in pairs):
            continue
        stable, canary = _total(run, metric)
        if has_stable_arm and is_common_mode(stable, canary, limit):
            continue
        splits = [Split(canary.bad, canary.requests, stable.bad, stable.requests) for stable, canary in pairs]
        worse = log_e(split_logs(splits, HARM_RATIOS)) if has_stable_arm else -math.inf
        above = log_e(own_above_logs(canary.bad, canary.requests, limit))
        if has_stable_arm and _misses(stable, limit):
            above = -math.inf
        if max(worse, above) >= -math.log(alpha * RUN_ALPHA_SHARE):
            return run
    return ()


def shared_outage(windows: Sequence[Window], metric: str, limit: float) -> tuple[Window, ...]:
    """The newest windows, if both arms are missing the objective in all of them alike; else ()."""
    run = tuple(windows[-RUN:])
    if len(run) < RUN or run[-1].index - run[0].index != RUN - 1:
        return ()
    for window in run:
        stable, canary = tally(window.stable, metric), tally(window.canary, metric)
        if min(stable.bad, canary.bad) < MIN_BAD or not _misses(stable, limit) or not _misses(canary, limit):
            return ()
    return run if is_common_mode(*_total(run, metric), limit) else ()


def _runs(windows: Sequence[Window]) -> list[tuple[Window, ...]]:
    found = [tuple(windows[first : first + RUN]) for first in range(len(windows) - RUN + 1)]
    return [run for run in found if run[-1].index - run[0].index == RUN - 1]


def _is_bad(stable: Tally, canary: Tally, limit: float, has_stable_arm: bool) -> bool:
    if canary.bad < MIN_BAD or not _misses(canary, limit):
        return False
    return not has_stable_arm or (canary.rate or 0.0) > (stable.rate or 0.0)


def _misses(arm: Tally, limit: float) -> bool:
    return arm.rate is not None and arm.rate > limit


def _total(run: Sequence[Window], metric: str) -> tuple[Tally, Tally]:
    stable = sum((window.stable for window in run), ArmCounts())
    canary = sum((window.canary for window in run), ArmCounts())
    return tally(stable, metric), tally(canary, metric)
