"""How long harm of a stated size takes to be found, and the z-test of seed section 3.10 for one planned look. Pure.

A z-test is right once, at the end of a plan made before; acted on whenever it crosses a line it is wrong far more often
than the line says (`airboss bench judge` counts how often).
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from engine.rollouts.statistics import FIRST_WEIGHT, HARM_RATIOS, Split

POWER_RATIO = 2.0
"""The harm whose time to be found a verdict states."""


def seconds_to_find(rps: float, share: float, rate: float, ratio: float, alpha: float) -> float:
    """About when the sequential test finds a canary `ratio` times as bad as stable's `rate`: half of them by then.

    `rps` requests a second of both tracks, `share` of them the canary's. The test's logarithm grows by the
    Kullback-Leibler divergence of the canary's share of the bad events from its share of the requests, for each bad
    event, and has to cover 1/alpha and its own weight in the mixture (Wald 1945).
    """
    of_bad = share * ratio / (share * ratio + 1 - share)
    gain = of_bad * math.log(of_bad / share) + (1 - of_bad) * math.log((1 - of_bad) / (1 - share))
    events_per_s = rps * rate * (share * ratio + 1 - share)
    return math.log(len(HARM_RATIOS) / FIRST_WEIGHT / alpha) / (gain * events_per_s)


def z_score(canary_bad: float, canary_requests: float, stable_bad: float, stable_requests: float) -> float | None:
    """The pooled two-proportion z of a single planned look, canary minus stable; None where it has no meaning."""
    if canary_requests <= 0 or stable_requests <= 0:
        return None
    pooled = (canary_bad + stable_bad) / (canary_requests + stable_requests)
    spread = pooled * (1 - pooled) * (1 / canary_requests + 1 / stable_requests)
    if spread <= 0:
        return None
    return (canary_bad / canary_requests - stable_bad / stable_requests) / math.sqrt(spread)


def planned_z(split: Split, canary_requests: int) -> float | None:
    """The z of the one planned look: at the first interval by which the canary had so many requests; None before.

    It is the same at every later look, because what came afterwards is not asked.
    """
    reached = np.flatnonzero(np.cumsum(split.canary_requests) >= canary_requests)
    if not len(reached):
        return None
    seen = slice(0, int(reached[0]) + 1)
    fields = (split.canary_bad, split.canary_requests, split.stable_bad, split.stable_requests)
    return z_score(*(float(field[seen].sum()) for field in fields))


def z_critical(alpha: float) -> float:
    """The one-sided z that a planned look must reach."""
    return NormalDist().inv_cdf(1 - alpha)


def planned_requests(rate: float, ratio: float, share: float, alpha: float, power: float = 0.8) -> int:
    """How many canary requests one planned look needs to find a rate `ratio` times stable's `rate`.

    The textbook sample size for two proportions with unequal arms (Fleiss, Levin, Paik 2003, section 4.3, without the
    continuity correction); `share` is the canary's of all requests.
    """
    worse, k = rate * ratio, (1 - share) / share
    pooled = (worse + k * rate) / (1 + k)
    chance = z_critical(alpha) * math.sqrt(pooled * (1 - pooled) * (1 + 1 / k))
    spread = NormalDist().inv_cdf(power) * math.sqrt(worse * (1 - worse) + rate * (1 - rate) / k)
    return math.ceil(((chance + spread) / (worse - rate)) ** 2)
