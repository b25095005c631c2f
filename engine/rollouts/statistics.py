"""The judge's arithmetic: e-processes that stay valid however often one looks. Pure; arrays in, arrays out.

An e-process is a non-negative number whose mean under the null is at most 1 at every moment, so that it ever reaches
1/alpha with probability at most alpha (Ville 1939; Ramdas et al. 2023, "Game-theoretic statistics and safe
anytime-valid inference"). Each one here is a mean over alternatives of likelihood ratios, kept as logarithms that add up
over intervals. The last axis of every array is time; alternatives are the first. A judge has one run of intervals;
`airboss bench judge` has thousands and asks these same functions. `JUDGE.md` beside this file has the proofs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

HARM_RATIOS = (1.5, 2.0, 3.0, 5.0, 10.0)
"""How much worse a canary may be: the alternatives of the harm test, and (as odds) of `own_above_logs`."""
BELOW_FRACTIONS = (0.0, 0.05, 0.2, 0.5)
"""How far below the objective a good canary may be: the alternatives of `own_below_logs`."""
FIRST_WEIGHT = 0.75
"""The weight of harm that was there from the step's first request; the rest is for harm that begins later."""
RESTART_S = 300.0
"""How often harm may begin."""
KEPT_RESTARTS = 12
"""How many of the newest restarts are followed: harm may have begun at any time in the last hour, or at the start."""
_LOG_CEILING = 690.0


@dataclass(frozen=True, slots=True)
class Split:
    """One metric's bad events and requests of both arms; each field an array whose last axis is time."""

    canary_bad: Array
    canary_requests: Array
    stable_bad: Array
    stable_requests: Array

    def total(self) -> tuple[float, float, float, float]:
        """The fields' sums over everything, in their order."""
        fields = (self.canary_bad, self.canary_requests, self.stable_bad, self.stable_requests)
        canary_bad, canary_requests, stable_bad, stable_requests = (float(np.sum(field)) for field in fields)
        return canary_bad, canary_requests, stable_bad, stable_requests


def better_ratios(margin: float) -> tuple[float, ...]:
    """The alternatives of the non-inferiority test against "at least 1 + margin times as bad"."""
    return (1 + margin / 4, 1.0, 0.75, 0.5)


def split_logs(split: Split, ratios: Sequence[float], null_ratio: float = 1.0) -> Array:
    """Log likelihood ratios that the canary's bad rate is r times stable's rather than `null_ratio` times, one per r.

    Of an interval's k bad events the canary has c ~ Bin(k, wr/(wr+1-w)), w being its measured share of the requests
    (delivery reference, section C). With D(r) = 1 + w(r-1) the ratio is (r/r0)^c (D(r0)/D(r))^k: an interval in which
    one arm had no requests contributes exactly 0. Shape: (ratios, *split's).
    """
    bad = split.canary_bad + split.stable_bad
    requests = split.canary_requests + split.stable_requests
    share = split.canary_requests / np.where(requests > 0, requests, 1.0)
    null = np.log1p(share * (null_ratio - 1))
    return np.stack(
        [
            split.canary_bad * math.log(ratio / null_ratio) - bad * (np.log1p(share * (ratio - 1)) - null)
            for ratio in ratios
        ]
    )


def own_below_logs(bad: npt.ArrayLike, requests: npt.ArrayLike, limit: npt.ArrayLike) -> Array:
    """Log likelihood ratios that the rate is f times `limit` rather than `limit`, one per f in BELOW_FRACTIONS.

    Against every rate at or above `limit`: p·f + (1-p)(1-f·limit)/(1-limit) is 1 at p = limit and falls with p.
    """
    bad = np.asarray(bad, dtype=float)
    good, limits = np.asarray(requests, dtype=float) - bad, np.asarray(limit, dtype=float)
    logs = []
    for fraction in BELOW_FRACTIONS:
        gain = good * (np.log1p(-fraction * limits) - np.log1p(-limits))
        loss = bad * math.log(fraction) if fraction > 0 else np.where(bad > 0, -np.inf, 0.0)
        logs.append(gain + loss)
    return np.stack(logs)


def own_above_logs(bad: npt.ArrayLike, requests: npt.ArrayLike, limit: float) -> Array:
    """Log likelihood ratios that the odds of a bad event are r times those at `limit`, one per r in HARM_RATIOS.

    Against every rate at or below `limit`, by the same straight line in p as `own_below_logs`, rising this time.
    """
    bad, requests = np.asarray(bad, dtype=float), np.asarray(requests, dtype=float)
    return np.stack([bad * math.log(ratio) - requests * math.log1p(limit * (ratio - 1)) for ratio in HARM_RATIOS])


def log_e(logs: Array, burst: npt.ArrayLike = 1.0) -> Array:
    """Log of the mean over alternatives (the first axis); `burst` >= 1 counts that many events as one.

    The mean of x^(1/burst) is at most the mean of x to that power, so a burst factor taken from the data can only make
    the test slower to speak.
    """
    mean: Array = np.logaddexp.reduce(logs / np.asarray(burst), axis=0) - math.log(len(logs))
    return mean


@dataclass(frozen=True, slots=True)
class HarmLogs:
    """Logs of the harm e-values at each look: a burst counted as one event, and no burst alone enough."""

    thinned: Array
    steady: Array


def harm_logs(logs: Array, burst: Array, looks: Sequence[int], block: int, cap: float) -> HarmLogs:
    """The harm test after each of the bins `looks` (rising), mixed over when the harm began.

    `logs` are the bins' own, shape (alternatives, …, bins), `burst` is `burst_factors` of the same bins. Besides the
    process that began with the step, one begins at every `block`-th bin. Their weights are FIRST_WEIGHT for the first and
    (1 - FIRST_WEIGHT)/(k(k+1)) for the k-th of the others, 1 for all that ever begin, so that together they stay an
    e-process (a mixture of restarts: Shin, Ramdas, Rinaldo 2024, "E-detectors"). Without it, whatever spoke for the
    canary earlier would have to be outweighed first. What is dropped (old restarts, a burst's evidence above `cap`, which
    is in logs) can only make the test slower.
    """
    at = np.asarray(looks)
    shape = (*logs.shape[1:-1], len(at))
    later = math.log1p(-FIRST_WEIGHT)
    waiting = np.broadcast_to(later - np.log(at // block + 1.0), shape)  # the weight of all that have not yet begun
    found = HarmLogs(waiting.copy(), waiting.copy())
    for index, start in enumerate(range(0, int(at[-1]) + 1, block)):
        end = at[-1] + 1 if index == 0 else min(at[-1] + 1, start + KEPT_RESTARTS * block)
        first, last = np.searchsorted(at, [start, end])
        if first == last:
            continue
        weight = math.log(FIRST_WEIGHT) if index == 0 else later - math.log(index * (index + 1))
        chosen = at[first:last] - start
        part = logs[..., start:end]
        sums = np.cumsum(part, axis=-1)[..., chosen]
        excess = np.maximum(_loudest(part)[..., chosen] - cap, 0.0)
        for kept, value in (
            (found.thinned, log_e(sums, burst[..., at[first:last]])),
            (found.steady, log_e(sums - excess)),
        ):
            kept[..., first:last] = np.logaddexp(kept[..., first:last], weight + value)
    return found


def _loudest(logs: Array) -> Array:
    """What the loudest two neighbouring bins so far say, for each alternative."""
    pairs = logs.copy()
    pairs[..., 1:] += logs[..., :-1]
    return np.maximum.accumulate(pairs, axis=-1)


def burst_factors(canary_bad: Array, stable_bad: Array, *, from_zero: bool) -> Array:
    """How many bad events come together, >= 1, after each bin: half the mean squared step between neighbours over the
    mean count.

    Bins are of equal length. Independent events give 1, a lone burst of m gives m, a lasting change of level hardly
    counts after a few bins (von Neumann 1941, successive differences). `from_zero` puts an empty bin before the first,
    so that a burst at the very start is seen as one.
    """
    bins = np.arange(1, canary_bad.shape[-1] + 1)
    steps = np.zeros_like(canary_bad)
    for arm in (canary_bad, stable_bad):
        steps += np.diff(arm, axis=-1, prepend=0.0 if from_zero else arm[..., :1]) ** 2
    pairs = bins if from_zero else bins - 1
    mean = np.cumsum(canary_bad + stable_bad, axis=-1) / bins
    scale = 2 * pairs * mean
    return np.maximum(1.0, np.cumsum(steps, axis=-1) / np.where(scale > 0, scale, np.inf))


def e_value(log_value: float) -> float:
    """The e-value of its logarithm, kept finite (at most about 1e299) for JSON and screens."""
    return math.exp(min(log_value, _LOG_CEILING))
