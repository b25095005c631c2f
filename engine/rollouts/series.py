"""From a step's intervals to one metric's arrays: by interval, in bins, in windows. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from adapters.ports import Interval
from engine.rollouts.statistics import RESTART_S, Array, Split

COUNTED = {
    "errors": ("errors", "requests"),
    "slow": ("slow", "requests"),
    "quality": ("failed", "checked"),
    "cost": ("dear", "priced"),
}
"""For each metric the fields of `ArmCounts` that hold its bad events and what they are a share of."""
BINS_A_WINDOW = 3


@dataclass(frozen=True, slots=True)
class Series:
    """One metric's counts in the order of time. Bins are a third of a bad window, counted from the step's first count.

    Intervals longer than that are bins of their own (`is_coarse`): one as long as a bad window is no hiccup. `bin_of`
    has each interval's bin, `block` is how many bins lie between two restarts of the harm test, and `windows` are the
    complete ones, following each other with an empty one where there is a hole.
    """

    split: Split
    bin_of: npt.NDArray[np.intp]
    bins: Split
    block: int
    is_coarse: bool
    windows: Split
    last_bin_of: npt.NDArray[np.intp]
    """For each window its last bin, or that of the window before where it is empty."""

    def binned(self, logs: Array) -> Array:
        """Logs of the intervals (the last axis) added up to logs of the bins."""
        return np.add.reduceat(logs, np.searchsorted(self.bin_of, np.arange(self.bin_of[-1] + 1)), axis=-1)


def series_of(metric: str, intervals: Sequence[Interval], window_s: float) -> Series | None:
    """The metric's series; None without any interval."""
    if not intervals:
        return None
    ordered = sorted(intervals, key=lambda item: item.t0 + item.t1)
    bad, requests = COUNTED[metric]
    columns = [
        np.array([getattr(getattr(item, arm), name) for item in ordered], dtype=float)
        for arm in ("canary", "stable")
        for name in (bad, requests)
    ]
    t0 = np.array([item.t0 for item in ordered], dtype=float)
    t1 = np.array([item.t1 for item in ordered], dtype=float)
    middle, start, end = (t0 + t1) / 2, float(t0.min()), float(t1.max())
    longest = float((t1 - t0).max())
    # A hair less, because the ends of intervals are sums of floats.
    bin_s = max(window_s / BINS_A_WINDOW, longest)
    bin_of = np.unique(np.floor((middle - start) / bin_s + 1e-9), return_inverse=True)[1]
    # A window is complete when only rounding is missing.
    complete = math.floor((end - start) / window_s + 1e-6)
    window = np.floor((middle - start) / window_s + 1e-9)
    inside = window < complete
    place = _without_long_holes(window[inside])
    return Series(
        split=Split(*columns),
        bin_of=bin_of,
        bins=Split(*(_sums(bin_of, column) for column in columns)),
        block=max(1, math.ceil(RESTART_S / bin_s - 1e-9)),
        is_coarse=bin_s >= window_s,
        windows=Split(*(_sums(place, column[inside]) for column in columns)),
        last_bin_of=_last_bins(place, bin_of[inside]),
    )


def _last_bins(place: npt.NDArray[np.intp], bin_of: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    last = np.zeros(int(place[-1]) + 1 if len(place) else 0, dtype=np.intp)
    np.maximum.at(last, place, bin_of)
    return np.maximum.accumulate(last)


def _sums(place: npt.NDArray[np.intp], column: Array) -> Array:
    return np.asarray(np.bincount(place, column), dtype=float)


def _without_long_holes(index: Array) -> npt.NDArray[np.intp]:
    """Where windows stand once every hole between them is one empty window, however long it was."""
    if not len(index):
        return np.zeros(0, dtype=np.intp)
    steps = np.minimum(np.diff(index, prepend=index[0]), 2)
    return np.cumsum(steps).astype(np.intp)
