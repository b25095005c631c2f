"""Service level indicators, error budgets and coverage, from minutes. Pure.

The events are users' requests as the gateway counted them: bad ÷ (good + bad), DESIGN §8. A gateway that is down
counts nothing, so failing probes speak for the requests that never came to be counted, and a minute in which there
was neither is unknown: it is shown as coverage and is neither good nor bad.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from engine.observe.burn import WINDOWS, Burn, BurnRule, burning, window_name


@dataclass(frozen=True, slots=True)
class Minute:
    """One minute of a service, as the store has it. `minute` counts from the epoch."""

    minute: int
    requests: int = 0
    errors: int = 0
    slow: int = 0
    probes: int = 0
    probe_errors: int = 0


@dataclass(frozen=True, slots=True)
class FailingMinute:
    """A minute with failing probes: what was counted in it, the share of probes that failed, how much of it is over."""

    minute: int
    requests: int
    share: float
    elapsed: float = 1.0


@dataclass(frozen=True, slots=True)
class Tally:
    """The sums over one window's minutes that every indicator below is made of.

    `counted_minutes` had requests; `probed_minutes` had probes only, and `probes`, `probe_errors` are theirs.
    """

    counted_minutes: int = 0
    requests: int = 0
    errors: int = 0
    slow: int = 0
    probed_minutes: int = 0
    probes: int = 0
    probe_errors: int = 0
    failing: tuple[FailingMinute, ...] = ()

    @property
    def events(self) -> int:
        """Real events, for volume guards: requests, and probes of minutes that had none."""
        return self.requests + self.probes

    @property
    def lost(self) -> float:
        """Requests that users must have made and nobody counted, estimated.

        For each minute with failing probes: min(failing share × mean, mean − counted), with the mean requests of a
        counted minute in this window. It takes both, failing probes and missing traffic, to lose a request; a single
        failed probe beside full traffic loses none. (Ours; the workbook has no rule for a blind counter.)
        """
        if not self.counted_minutes:
            return 0.0
        mean = self.requests / self.counted_minutes
        return sum(min(f.share * mean * f.elapsed, max(0.0, mean * f.elapsed - f.requests)) for f in self.failing)


def tally(minutes: Iterable[Minute], now: float) -> Tally:
    """The sums over `minutes` at the time `now` (the last minute may not be over)."""
    rows = tuple(minutes)
    counted = [m for m in rows if m.requests]
    probed = [m for m in rows if not m.requests and m.probes]
    return Tally(
        counted_minutes=len(counted),
        requests=sum(m.requests for m in counted),
        errors=sum(m.errors for m in counted),
        slow=sum(m.slow for m in counted),
        probed_minutes=len(probed),
        probes=sum(m.probes for m in probed),
        probe_errors=sum(m.probe_errors for m in probed),
        failing=tuple(failing_minute(m, now) for m in rows if m.probe_errors),
    )


def failing_minute(minute: Minute, now: float) -> FailingMinute:
    """What `Tally.lost` needs of a minute with failing probes."""
    elapsed = min(1.0, max(0.0, (now - minute.minute * 60) / 60))
    return FailingMinute(minute.minute, minute.requests, minute.probe_errors / minute.probes, elapsed)


def availability_ratio(window: Tally) -> float | None:
    """The share of bad events, 0..1; None when nothing is known.

    With users: (errors + lost) ÷ (requests + lost). Without a single one in the window the probes are the only word:
    failed ÷ made. Good probes of idle minutes are coverage and no more, or they would drown the errors that the few
    users met.
    """
    if window.requests:
        return (window.errors + window.lost) / (window.requests + window.lost)
    if window.probes:
        return window.probe_errors / window.probes
    return None


def slow_ratio(window: Tally) -> float | None:
    """The share of requests slower than the objective's threshold; None without requests (probes say nothing of it)."""
    return window.slow / window.requests if window.requests else None


def budget_left(bad_ratio: float | None, limit: float, elapsed_s: float, window_s: float) -> float | None:
    """The share of the window's error budget that is left: 1 untouched, 0 spent, below 0 overspent.

    1 − (bad ÷ all) ÷ limit over the whole window (SRE workbook ch. 2; reference/delivery.md §F). While only
    `elapsed_s` of the window exists, the ratio so far has spent burn rate × elapsed ÷ window of it (workbook ch. 5,
    "error budget consumed"), which is the same formula at today's traffic and equal once the window is full.
    """
    if bad_ratio is None:
        return None
    return 1 - bad_ratio / limit * min(1.0, elapsed_s / window_s)


@dataclass(frozen=True, slots=True)
class Objective:
    """How one objective stands: the bad share over the window, against its limit; budget; burn by window."""

    name: str
    limit: float
    bad_ratio: float | None
    budget_left: float | None
    burns: Mapping[float, Burn]
    burning: tuple[BurnRule, ...]

    @property
    def is_exhausted(self) -> bool:
        """Its budget is spent: promotions need break-glass, rollbacks never do (DESIGN §8)."""
        return self.budget_left is not None and self.budget_left <= 0


@dataclass(frozen=True, slots=True)
class SloStatus:
    """A service's objectives in an environment at `at`. `elapsed_s` is how much of `window_s` exists at all."""

    service: str
    env: str
    at: float
    window_s: float
    elapsed_s: float
    coverage: float
    requests: int
    errors: int
    availability: Objective
    latency: Objective
    notes: tuple[str, ...] = field(default=())

    @property
    def is_clamped(self) -> bool:
        """The service is younger than its window."""
        return self.elapsed_s < self.window_s

    @property
    def sli(self) -> float | None:
        """The share of good events over the window, 0..1; None = unknown."""
        bad = self.availability.bad_ratio
        return None if bad is None else 1 - bad

    @property
    def budget_left(self) -> float | None:
        """What is left of the availability budget; None = unknown."""
        return self.availability.budget_left

    @property
    def burn(self) -> dict[str, float | None]:
        """Availability's burn rate by window: {"5m": 0.4, …}; 1 = exactly on budget, None = no evidence."""
        return {window_name(window): burn.rate for window, burn in self.availability.burns.items()}

    @property
    def is_exhausted(self) -> bool:
        """Either objective's budget is spent."""
        return self.availability.is_exhausted or self.latency.is_exhausted


def window_minutes(window_s: float, first_minute: int | None, now: float) -> tuple[int, int]:
    """The first and the last minute of the window that ends now, clamped to the first minute ever known."""
    last = int(now // 60)
    first = last - max(1, math.ceil(window_s / 60)) + 1
    return (first if first_minute is None else max(first, min(first_minute, last))), last


def coverage(window: Tally, first: int, last: int, current_is_covered: bool) -> float:
    """The share of minutes in [first, last] about which something is known; the running minute counts once it is."""
    expected = last - first + 1 - (0 if current_is_covered else 1)
    return 1.0 if expected <= 0 else min(1.0, (window.counted_minutes + window.probed_minutes) / expected)


def slo_status(
    service: str,
    env: str,
    *,
    error_limit: float,
    slow_limit: float,
    window_s: float,
    tallies: Mapping[float, Tally],
    first_minute: int | None,
    current_is_covered: bool,
    now: float,
) -> SloStatus:
    """How a service's objectives stand, from the tallies of `burn.WINDOWS` and of `window_s`."""
    elapsed_s = 0.0 if first_minute is None else max(0.0, now - first_minute * 60)
    whole = tallies[window_s]
    first, last = window_minutes(window_s, first_minute, now)
    covered = 0.0 if first_minute is None else coverage(whole, first, last, current_is_covered)

    def objective(name: str, limit: float, ratios: Mapping[float, float | None]) -> Objective:
        burns = {w: Burn.of(w, ratios[w], limit, tallies[w].events, elapsed_s) for w in WINDOWS}
        left = budget_left(ratios[window_s], limit, elapsed_s, window_s)
        return Objective(name, limit, ratios[window_s], left, burns, burning(burns))

    notes = []
    if elapsed_s < window_s:
        notes.append(f"windows are clamped to the {window_name(elapsed_s)} that exist of {window_name(window_s)}")
    if covered < 0.995:
        notes.append(f"{1 - covered:.0%} of the window is unknown: neither counts nor probes")
    if whole.lost >= 1:
        notes.append(f"about {whole.lost:.0f} requests lost uncounted, by failing probes")
    return SloStatus(
        service=service,
        env=env,
        at=now,
        window_s=window_s,
        elapsed_s=min(elapsed_s, window_s),
        coverage=covered,
        requests=whole.requests,
        errors=whole.errors,
        availability=objective("availability", error_limit, {w: availability_ratio(t) for w, t in tallies.items()}),
        latency=objective("latency", slow_limit, {w: slow_ratio(t) for w, t in tallies.items()}),
        notes=tuple(notes),
    )
