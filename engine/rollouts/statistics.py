"""The judge's arithmetic: e-processes and bounds that stay valid however often one looks. Pure, standard library only.

An e-process is a non-negative number whose mean under the null is at most 1 at every moment, so that it ever reaches
1/alpha with probability at most alpha (Ville 1939; Ramdas et al. 2023, "Game-theoretic statistics and safe
anytime-valid inference"). Each one here is a mean over alternatives of likelihood ratios; everything is kept as
logarithms, one per alternative, because they add up over intervals. `README.md` beside this file has the proofs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

HARM_RATIOS = (1.5, 2.0, 3.0, 5.0, 10.0)
"""How much worse a canary may be: the alternatives of the harm test, and (as odds) of `own_above_logs`."""
BELOW_FRACTIONS = (0.0, 0.05, 0.2, 0.5)
"""How far below the objective a good canary may be: the alternatives of `own_below_logs`."""
_LOG_CEILING = 690.0
_BISECTIONS = 44


@dataclass(frozen=True, slots=True)
class Split:
    """One interval of one metric: bad events and requests of both arms."""

    canary_bad: float
    canary_requests: float
    stable_bad: float
    stable_requests: float


def better_ratios(margin: float) -> tuple[float, ...]:
    """The alternatives of the non-inferiority test against "at least 1 + margin times as bad"."""
    return (1 + margin / 4, 1.0, 0.75, 0.5)


def split_logs(splits: Sequence[Split], ratios: Sequence[float], null_ratio: float = 1.0) -> tuple[float, ...]:
    """Log likelihood ratios that the canary's bad rate is r times stable's rather than `null_ratio` times, one per r.

    Of an interval's k bad events the canary has c ~ Bin(k, wr/(wr+1-w)), w being its measured share of the requests
    (delivery reference, section C). With D(r) = 1 + w(r-1) the ratio is (r/r0)^c (D(r0)/D(r))^k: an interval in which
    one arm had no requests contributes exactly 0.
    """
    sums = [0.0] * len(ratios)
    gains = [math.log(ratio / null_ratio) for ratio in ratios]
    for split in splits:
        bad = split.canary_bad + split.stable_bad
        if bad <= 0:
            continue
        share = split.canary_requests / (split.canary_requests + split.stable_requests)
        null = math.log1p(share * (null_ratio - 1))
        for index, ratio in enumerate(ratios):
            cost = math.log1p(share * (ratio - 1)) - null
            sums[index] += split.canary_bad * gains[index] - bad * cost
    return tuple(sums)


def own_below_logs(bad: float, requests: float, limit: float) -> tuple[float, ...]:
    """Log likelihood ratios that the rate is f times `limit` rather than `limit`, one per f in BELOW_FRACTIONS.

    Against every rate at or above `limit`: p·f + (1-p)(1-f·limit)/(1-limit) is 1 at p = limit and falls with p.
    """
    good = requests - bad
    logs = []
    for fraction in BELOW_FRACTIONS:
        gain = good * (math.log1p(-fraction * limit) - math.log1p(-limit))
        loss = 0.0 if bad <= 0 else (bad * math.log(fraction) if fraction > 0 else -math.inf)
        logs.append(gain + loss)
    return tuple(logs)


def own_above_logs(bad: float, requests: float, limit: float) -> tuple[float, ...]:
    """Log likelihood ratios that the odds of a bad event are r times those at `limit`, one per r in HARM_RATIOS.

    Against every rate at or below `limit`, by the same straight line in p as `own_below_logs`, rising this time.
    """
    return tuple(bad * math.log(ratio) - requests * math.log1p(limit * (ratio - 1)) for ratio in HARM_RATIOS)


def log_e(logs: Sequence[float], burst: float = 1.0) -> float:
    """Log of the mean over alternatives; `burst` >= 1 counts that many events as one (see `burst_factor`).

    exp(x/burst) <= max(1, exp(x)), so a burst factor taken from the data can only make the test slower to speak.
    """
    if not logs:
        return 0.0
    scaled = [value / burst for value in logs]
    top = max(scaled)
    if top == -math.inf:
        return -math.inf
    return top + math.log(sum(math.exp(value - top) for value in scaled) / len(scaled))


def add_logs(parts: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Evidence of several bins together: logs add up, alternative by alternative."""
    return tuple(sum(column) for column in zip(*parts, strict=True))


def without_loudest_burst(parts: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """`add_logs` less the two neighbouring bins that speak loudest, for each alternative.

    What one hiccup alone has shown is not shown. Leaving out only what raises the sum keeps it an e-process, and it
    still never falls when a canary's request turns bad.
    """
    left = []
    for column in zip(*parts, strict=True):
        pairs = [a + b for a, b in pairwise((0.0, *column))]
        left.append(sum(column) - max(0.0, *pairs))
    return tuple(left)


def e_value(log_value: float) -> float:
    """The e-value of its logarithm, kept finite (at most about 1e299) for JSON and screens."""
    return math.exp(min(log_value, _LOG_CEILING))


def burst_factor(counts: Sequence[tuple[float, float]], *, from_zero: bool) -> float:
    """How many bad events come together, >= 1: half the mean squared step between neighbours over the mean count.

    `counts` are (canary, stable) bad events in consecutive bins of equal length. Independent events give 1, a lone
    burst of m gives m, a lasting change of level hardly counts after a few bins (von Neumann 1941, successive
    differences). `from_zero` puts an empty bin before the first, so that a burst at the very start is seen as one.
    """
    bins = [(0.0, 0.0), *counts] if from_zero else list(counts)
    total = sum(canary + stable for canary, stable in counts)
    pairs = len(bins) - 1
    if pairs < 1 or total <= 0:
        return 1.0
    steps = sum((b[arm] - a[arm]) ** 2 for a, b in pairwise(bins) for arm in (0, 1))
    return max(1.0, (steps / 2 / pairs) / (total / len(counts)))


def upper_bound(bad: float, requests: float, alpha: float) -> float:
    """The largest rate not yet refuted: valid at every look with probability 1 - alpha. Below `limit` exactly when
    the mean of `own_below_logs(bad, requests, limit)` has reached 1/alpha (it rises with the limit).
    """
    if requests <= 0:
        return 1.0
    target = -math.log(alpha)
    return _crossing(lambda rate: log_e(own_below_logs(bad, requests, rate)) >= target, 0.0, 1.0)


def difference_interval(total: Split, alpha: float) -> tuple[float, float]:
    """Canary's rate minus stable's, valid at every look: each arm's confidence sequence at alpha / 2 (union bound)."""
    canary_low, canary_high = rate_interval(total.canary_bad, total.canary_requests, alpha / 2)
    stable_low, stable_high = rate_interval(total.stable_bad, total.stable_requests, alpha / 2)
    return canary_low - stable_high, canary_high - stable_low


def rate_interval(bad: float, requests: float, alpha: float) -> tuple[float, float]:
    """A confidence sequence for one constant rate: beta(1/2, 1/2) mixture (Robbins 1970; Howard et al. 2021)."""
    if requests <= 0:
        return 0.0, 1.0
    good = requests - bad
    mixture = math.lgamma(bad + 0.5) + math.lgamma(good + 0.5) - math.lgamma(requests + 1) - math.log(math.pi)
    target = mixture + math.log(alpha)

    def is_refuted(rate: float) -> bool:
        likelihood = (bad * math.log(rate) if bad > 0 else 0.0) + (good * math.log1p(-rate) if good > 0 else 0.0)
        return likelihood <= target

    seen = bad / requests
    high = 1.0 if good <= 0 else _crossing(is_refuted, seen, 1.0)
    low = 0.0 if bad <= 0 else 1 - _crossing(lambda rate: is_refuted(1 - rate), 1 - seen, 1.0)
    return low, high


def requests_to_pass(limit: float, alpha: float, bad: float = 0) -> int:
    """How many requests, `bad` of them bad, show a rate below `limit` at this metric's own alpha.

    The policy's alpha is split over the judge's metrics: `requests_to_pass(slo.error_limit, policy.alpha / 2)`.
    """
    target = -math.log(alpha)
    low, high = int(bad), max(1, int(bad))
    while log_e(own_below_logs(bad, high, limit)) < target:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        if log_e(own_below_logs(bad, middle, limit)) < target:
            low = middle
        else:
            high = middle
    return high


def growth_needed(logs: Sequence[float], alpha: float, burst: float = 1.0) -> float | None:
    """By what factor the evidence must grow, at the rates seen so far, to reach 1/alpha; None if it never will."""
    target = -math.log(alpha)
    if not logs or max(logs) <= 0:
        return None
    high = (target + math.log(len(logs))) * burst / max(logs)
    low = 0.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        # 0 times -inf (an alternative that the data have already ruled out) stays ruled out at every size.
        grown = [-math.inf if value == -math.inf else value * middle for value in logs]
        low, high = (middle, high) if log_e(grown, burst) < target else (low, middle)
    return high


def z_score(total: Split) -> float | None:
    """The pooled two-proportion z of a single planned look (seed section 3.10), canary minus stable.

    For a reader only: acted on whenever it crosses a line, it is wrong far more often than the line says.
    """
    if total.canary_requests <= 0 or total.stable_requests <= 0:
        return None
    pooled = (total.canary_bad + total.stable_bad) / (total.canary_requests + total.stable_requests)
    spread = pooled * (1 - pooled) * (1 / total.canary_requests + 1 / total.stable_requests)
    if spread <= 0:
        return None
    effect = total.canary_bad / total.canary_requests - total.stable_bad / total.stable_requests
    return effect / math.sqrt(spread)


def _crossing(is_past: Callable[[float], bool], low: float, high: float) -> float:
    """Where `is_past` turns true between `low` (false) and `high`, from the past side: the cautious end."""
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if middle <= low or middle >= high:
            break
        low, high = (low, middle) if is_past(middle) else (middle, high)
    return high
