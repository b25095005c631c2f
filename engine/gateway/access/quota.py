"""Rate limits: requests and tokens a minute, and bursts, per key, per tenant and per address.

Workers know nothing of each other, so each enforces its share: the limit divided by the number of workers, rounded up.
Tokens are estimated at admission and corrected when the answer says what it really took.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from limits import RateLimitItemPerMinute, RateLimitItemPerSecond
from limits.strategies import MovingWindowRateLimiter

from engine.gateway.access.identity import Identity
from engine.gateway.access.window import MemoryWindows
from engine.gateway.answers import Refused, error_answer
from state.access_config import RateConfig, RateLimit

REMEMBERED_LINES = 16_384
_HEADERS = {
    unit: tuple(f"X-Ratelimit-{what}-{unit.title()}" for what in ("Limit", "Remaining", "Reset"))
    for unit in ("requests", "tokens")
}


class _PerMinute(RateLimitItemPerMinute):
    """A limit a minute of one caller. It is asked for its key several times a request, so it has it ready."""

    __slots__ = ("key",)

    def __init__(self, amount: int, key: str) -> None:
        super().__init__(amount)
        self.key = key

    def key_for(self, *identifiers: bytes | str | float) -> str:
        """Whose window it is, whoever asks."""
        return self.key


class _PerSecond(RateLimitItemPerSecond):
    """The same of a second."""

    __slots__ = ("key",)

    def __init__(self, amount: int, key: str) -> None:
        super().__init__(amount)
        self.key = key

    def key_for(self, *identifiers: bytes | str | float) -> str:
        """Whose window it is, whoever asks."""
        return self.key


@dataclass(frozen=True, slots=True)
class Line:
    """One limit of one caller. `whole` is the limit over all workers, `item` this worker's share."""

    item: _PerMinute | _PerSecond
    of: str
    whole: int
    unit: str
    """"requests" or "tokens"."""


@dataclass(frozen=True, slots=True)
class Charge:
    """What one request takes of one limit."""

    line: Line
    cost: int


@dataclass(slots=True)
class Ticket:
    """What was taken for one request: enough to say what is left, and to put right what was only estimated."""

    charges: tuple[Charge, ...]
    tokens: int


class Quota:
    """The windows of one worker. `clock` is monotonic: setting the wall clock frees and locks nobody."""

    def __init__(self, config: RateConfig, workers: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._workers = workers
        self._clock = clock
        self._windows = MemoryWindows(clock)
        self._limiter = MovingWindowRateLimiter(self._windows)
        self.is_on = config.key.is_set or config.tenant.is_set or config.address.is_set

    def limits_of(self, identity: Identity | None, address: str) -> tuple[tuple[str, RateLimit], ...]:
        """Whose limits a request is held to: (whose, limit), only those that are set."""
        config = self._config
        found = []
        if identity is not None and not identity.is_prober:
            found.append((identity.name, identity.rate or config.key))
            if identity.tenant:
                found.append((f"tenant:{identity.tenant}", config.tenant))
        if address and not (identity and identity.is_prober):
            found.append((f"address:{address}", config.address))
        return tuple((of, limit) for of, limit in found if limit.is_set)

    def admit(self, limits: tuple[tuple[str, RateLimit], ...], tokens: Callable[[], int]) -> Ticket:
        """Take a request and its estimated `tokens` from every limit, or from none. Raises Refused (429)."""
        estimate = tokens() if any(limit.tokens_per_minute for _, limit in limits) else 0
        charges = []
        for of, limit in limits:
            for line in lines_of(of, limit, self._workers):
                # A request that is larger than the whole share may go when nothing else was taken, else it never could.
                charges.append(Charge(line, min(estimate, line.item.amount) if line.unit == "tokens" else 1))
        for charge in charges:
            if not self._limiter.test(charge.line.item, cost=charge.cost):
                raise self._refused(charge)
        for charge in charges:
            self._limiter.hit(charge.line.item, cost=charge.cost)
        return Ticket(tuple(charges), estimate)

    def settle(self, ticket: Ticket, tokens: int) -> None:
        """The request took `tokens` in truth: charge the rest, or give back."""
        for charge in ticket.charges:
            if charge.line.unit == "tokens" and tokens != charge.cost:
                self._windows.charge(charge.line.item.key, charge.line.item.get_expiry(), tokens - charge.cost)

    def headers(self, ticket: Ticket) -> dict[str, str]:
        """`x-ratelimit-*` as OpenAI's API has them: of each unit, the limit with the least left."""
        tightest: dict[str, tuple[int, Line]] = {}
        for charge in ticket.charges:
            line = charge.line
            if isinstance(line.item, _PerMinute):
                left = self._left(line)
                if line.unit not in tightest or left < tightest[line.unit][0]:
                    tightest[line.unit] = left, line
        headers: dict[str, str] = {}
        for unit, (left, line) in tightest.items():
            limit, remaining, reset = _HEADERS[unit]
            headers[limit] = str(line.whole)
            headers[remaining] = str(left)
            headers[reset] = f"{math.ceil(self._windows.until_empty_s(line.item.key, line.item.get_expiry()))}s"
        return headers

    def _left(self, line: Line) -> int:
        stats = self._limiter.get_window_stats(line.item)
        return max(0, min(line.whole, stats.remaining * self._workers))

    def _refused(self, charge: Charge) -> Refused:
        line = charge.line
        item, expiry = line.item, line.item.get_expiry()
        wait_s = max(1, math.ceil(self._windows.wait_s(item.key, item.amount, expiry, charge.cost)))
        span = "minute" if expiry > 1 else "second"
        message = f"{line.of} may use {line.whole} {line.unit} a {span} here; try again in {wait_s} s"
        limit, remaining, reset = _HEADERS[line.unit]
        headers = {"Retry-After": str(wait_s), limit: str(line.whole), remaining: "0", reset: f"{wait_s}s"}
        reason = "token_limited" if line.unit == "tokens" else "rate_limited"
        return Refused(reason, error_answer(429, line.unit, "rate_limit_exceeded", message, headers=headers))


@functools.lru_cache(REMEMBERED_LINES)
def lines_of(of: str, limit: RateLimit, workers: int) -> tuple[Line, ...]:
    """The limits that `limit` sets for the caller `of`, as one of `workers` enforces them."""
    lines = []
    if limit.burst:
        item = _PerSecond(-(-limit.burst // workers), f"burst/{of}/{limit.burst}")
        lines.append(Line(item, of, limit.burst, "requests"))
    for unit, whole in (("requests", limit.requests_per_minute), ("tokens", limit.tokens_per_minute)):
        if whole:
            lines.append(Line(_PerMinute(-(-whole // workers), f"{unit}/{of}/{whole}"), of, whole, unit))
    return tuple(lines)
