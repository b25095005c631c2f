"""Rates and how sure one may be of them, and how many requests are still needed. Pure; plain numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from engine.rollouts.statistics import Array, log_e, own_below_logs

_POINTS, _ROUNDS = 256, 6
_Test = Callable[[Array], npt.NDArray[np.bool_]]


def upper_bound(bad: float, requests: float, alpha: float) -> float:
    """The largest rate not yet refuted: valid at every look with probability 1 - alpha. Below `limit` exactly when
    the mean of `own_below_logs(bad, requests, limit)` has reached 1/alpha (it rises with the limit).
    """
    if requests <= 0:
        return 1.0
    target = -math.log(alpha)
    return _crossing(lambda rates: log_e(own_below_logs(bad, requests, rates)) >= target, 0.0, 1.0)


def difference_interval(canary: tuple[float, float], stable: tuple[float, float], alpha: float) -> tuple[float, float]:
    """Canary's rate minus stable's, valid at every look: each arm's confidence sequence at alpha / 2 (union bound).

    An arm is its (bad events, requests).
    """
    canary_low, canary_high = rate_interval(*canary, alpha / 2)
    stable_low, stable_high = rate_interval(*stable, alpha / 2)
    return canary_low - stable_high, canary_high - stable_low


def rate_interval(bad: float, requests: float, alpha: float) -> tuple[float, float]:
    """A confidence sequence for one constant rate: beta(1/2, 1/2) mixture (Robbins 1970; Howard et al. 2021)."""
    if requests <= 0:
        return 0.0, 1.0
    good = requests - bad
    mixture = math.lgamma(bad + 0.5) + math.lgamma(good + 0.5) - math.lgamma(requests + 1) - math.log(math.pi)
    target = mixture + math.log(alpha)

    def are_refuted(rates: Array) -> npt.NDArray[np.bool_]:
        with np.errstate(divide="ignore"):
            likelihood = (bad * np.log(rates) if bad > 0 else 0.0) + (good * np.log1p(-rates) if good > 0 else 0.0)
        return np.asarray(likelihood <= target)

    seen = bad / requests
    high = 1.0 if good <= 0 else _crossing(are_refuted, seen, 1.0)
    low = 0.0 if bad <= 0 else 1 - _crossing(lambda rates: are_refuted(1 - rates), 1 - seen, 1.0)
    return low, high


def requests_to_pass(limit: float, alpha: float, bad: float = 0) -> int:
    """How many requests, `bad` of them bad, show a rate below `limit` at this metric's own alpha.

    The policy's alpha is split over the judge's metrics: `requests_to_pass(slo.error_limit, policy.metric_alpha)`.
    """
    target = -math.log(alpha)
    low, high = int(bad), max(1, int(bad))
    while _below(bad, high, limit) < target:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        if _below(bad, middle, limit) < target:
            low = middle
        else:
            high = middle
    return high


def growth_needed(logs: Sequence[float] | Array, alpha: float, burst: float = 1.0) -> float | None:
    """By what factor the evidence must grow, at the rates seen so far, to reach 1/alpha; None if it never will."""
    target = -math.log(alpha)
    seen = np.asarray(logs, dtype=float)
    if not len(seen) or seen.max() <= 0:
        return None
    most = (target + math.log(len(seen))) * burst / float(seen.max())

    def are_enough(factors: Array) -> npt.NDArray[np.bool_]:
        # 0 times -inf (an alternative that the data have already ruled out) stays ruled out at every size.
        grown = np.where(np.isneginf(seen), 0.0, seen)[:, None] * factors
        return log_e(np.where(np.isneginf(seen)[:, None], -np.inf, grown), burst) >= target

    return _crossing(are_enough, 0.0, most)


def _below(bad: float, requests: float, limit: float) -> float:
    return float(log_e(own_below_logs(bad, requests, limit)))


def _crossing(are_past: _Test, low: float, high: float) -> float:
    """Where `are_past` turns true between `low` (false) and `high`, from the past side: the cautious end."""
    for _ in range(_ROUNDS):
        points = np.linspace(low, high, _POINTS)[1:-1]
        past = np.flatnonzero(are_past(points))
        first = int(past[0]) if len(past) else len(points)
        low = float(points[first - 1]) if first else low
        high = float(points[first]) if first < len(points) else high
    return high
