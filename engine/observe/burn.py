"""Multi-window, multi-burn-rate rules. Pure.

A burn rate is the bad share over a window divided by the objective's limit: 1 spends the budget exactly over the SLO's
window (SRE workbook ch. 5, "Alerting on SLOs", 6: multiwindow, multi-burn-rate). The factors are share of the budget ×
720 h ÷ long window: 2 % in 1 h = 14.4, 5 % in 6 h = 6, 10 % in 1 d = 3, 10 % in 3 d = 1 (sloth, google-30d).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from state.words import Severity

_M, _H, _D = 60.0, 3600.0, 86400.0
WINDOWS = (5 * _M, 30 * _M, _H, 2 * _H, 6 * _H, _D, 3 * _D)
MIN_EVENTS = 200
"""Volume guard: fewer events than this in the long window are no basis for waking anyone (delivery.md §F)."""


@dataclass(frozen=True, slots=True)
class BurnRule:
    """Fires while the burn rate is above `factor` in both windows: the long one proves, the short one ends it soon."""

    severity: Severity
    factor: float
    short_s: float
    long_s: float
    budget_share: float

    @property
    def label(self) -> str:
        """`14.4x over 5m and 1h`."""
        return f"{self.factor:g}x over {window_name(self.short_s)} and {window_name(self.long_s)}"


RULES = (
    BurnRule(Severity.PAGE, 14.4, 5 * _M, _H, 0.02),
    BurnRule(Severity.PAGE, 6, 30 * _M, 6 * _H, 0.05),
    BurnRule(Severity.TICKET, 3, 2 * _H, _D, 0.10),
    BurnRule(Severity.TICKET, 1, 6 * _H, 3 * _D, 0.10),
)


@dataclass(frozen=True, slots=True)
class Burn:
    """One window's burn rate. `covers_s` is how much of the window exists; `events` how many real ones it holds."""

    window_s: float
    covers_s: float
    rate: float | None
    events: int

    @classmethod
    def of(cls, window_s: float, bad_ratio: float | None, limit: float, events: int, elapsed_s: float) -> Burn:
        """The burn rate of `bad_ratio` against `limit` (both 0..1)."""
        rate = None if bad_ratio is None else bad_ratio / limit
        return cls(window_s, min(window_s, elapsed_s), rate, events)

    @property
    def is_clamped(self) -> bool:
        """The service is younger than the window."""
        return self.covers_s < self.window_s


def burning(burns: Mapping[float, Burn], min_events: int = MIN_EVENTS) -> tuple[BurnRule, ...]:
    """The rules that fire. No evidence (None) never fires and never clears by being read as 0.

    The long window may be clamped to a young service's age; the short one may not, so a service of ten minutes can page
    by 5m and 1h, and none opens a three-day ticket on its first error.
    """
    return tuple(
        rule
        for rule in RULES
        if not burns[rule.short_s].is_clamped
        and burns[rule.long_s].events >= min_events
        and _is_above(burns[rule.short_s], rule.factor)
        and _is_above(burns[rule.long_s], rule.factor)
    )


def _is_above(burn: Burn, factor: float) -> bool:
    return burn.rate is not None and burn.rate > factor


def window_name(seconds: float) -> str:
    """`90s`, `5m`, `1h`, `3d`: the largest whole unit, else the nearest."""
    for unit, size in (("d", _D), ("h", _H), ("m", _M)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:.0f}{unit}"
    for unit, size in (("d", _D), ("h", _H), ("m", _M)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"
