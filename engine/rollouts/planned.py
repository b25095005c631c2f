"""Tests for one planned look: the z-test of seed section 3.10 and Mann-Whitney. Pure; scipy where it is asked.

Both are right once, at the end of a plan made before; acted on whenever they cross a line they are wrong far more often
than the line says (`airboss bench judge` counts how often).
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def z_score(canary_bad: float, canary_requests: float, stable_bad: float, stable_requests: float) -> float | None:
    """The pooled two-proportion z of a single planned look, canary minus stable; None where it has no meaning."""
    if canary_requests <= 0 or stable_requests <= 0:
        return None
    pooled = (canary_bad + stable_bad) / (canary_requests + stable_requests)
    spread = pooled * (1 - pooled) * (1 / canary_requests + 1 / stable_requests)
    if spread <= 0:
        return None
    return (canary_bad / canary_requests - stable_bad / stable_requests) / math.sqrt(spread)


def z_critical(alpha: float) -> float:
    """The one-sided z that a planned look must reach."""
    from scipy.stats import norm

    return float(norm.isf(alpha))


def planned_requests(base_rate: float, ratio: float, share: float, alpha: float, power: float = 0.8) -> int:
    """How many canary requests one planned look needs to find a rate `ratio` times `base_rate`.

    The textbook sample size for two proportions with unequal arms (Fleiss, Levin, Paik 2003, section 4.3, without the
    continuity correction); `share` is the canary's of all requests.
    """
    from scipy.stats import norm

    worse, k = base_rate * ratio, (1 - share) / share
    pooled = (worse + k * base_rate) / (1 + k)
    chance = float(norm.isf(alpha)) * math.sqrt(pooled * (1 - pooled) * (1 + 1 / k))
    spread = float(norm.isf(1 - power)) * math.sqrt(worse * (1 - worse) + base_rate * (1 - base_rate) / k)
    return math.ceil(((chance + spread) / (worse - base_rate)) ** 2)


def mann_whitney(canary_rates: Sequence[float], stable_rates: Sequence[float]) -> float | None:
    """The one-sided p-value that the canary's rates by minute are the larger ones; None where they cannot be compared.

    It takes the minutes for independent. Where one minute is like the one before (a correlation of 0.8) a nominal 2 %
    is a true 42 % (delivery reference, section C).
    """
    from scipy.stats import mannwhitneyu

    if len(canary_rates) < 2 or len(stable_rates) < 2:
        return None
    return float(mannwhitneyu(canary_rates, stable_rates, alternative="greater").pvalue)
