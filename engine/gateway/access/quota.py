"""Rate limits: requests and tokens a minute, and bursts, per key, per tenant and per address.

Workers know nothing of each other, so each enforces its share: the limit divided by the number of workers, rounded up.
Tokens are estimated at admission and corrected when the answer says what it really took.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

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


@dataclass(frozen=True, slots=True, eq=False)
class Line:
    """One limit of one caller. `whole` is the limit over all workers, `item` this worker's share."""

    item: _PerMinute | _PerSecond
    of: str
    whole: int
    unit: str
    """"requests" or "tokens"."""
    said: Mapping[str, str]
    """What the `x-ratelimit-*` headers of an admitted request always say of it. All of it is back when what was taken
    last is, and that was just now."""


class Charge(NamedTuple):
    """What one request takes of one limit."""

    line: Line
    cost: int


class Ticket(NamedTuple):
    """What was taken for one request: enough to say what is left, and to put right what was only estimated."""

    charges: list[Charge]
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
        estimate = 0
        charges: list[Charge] = []
        for of, limit in limits:
            if limit.tokens_per_minute and not estimate:
                estimate = tokens()
            for line in lines_of(of, limit, self._workers):
                # A request that is larger than the whole share may go when nothing else was taken, else it never could.
                charge = Charge(line, min(estimate, line.item.amount) if line.unit == "tokens" else 1)
                if not self._limiter.hit(line.item, cost=charge.cost):
                    refused = self._refused(charge)
                    self._give_back(charges)
                    raise refused
                charges.append(charge)
        return Ticket(charges, estimate)

    def settle(self, ticket: Ticket, tokens: int) -> None:
        """The request took `tokens` in truth: charge the rest, or give back."""
        for line, cost in ticket.charges:
            if line.unit == "tokens" and tokens != cost:
                self._windows.charge(line.item.key, line.item.get_expiry(), tokens - cost)

    def headers(self, ticket: Ticket) -> dict[str, str]:
        """`x-ratelimit-*` as OpenAI's API has them: of each unit, the limit with the least left."""
        headers: dict[str, str] = {}
        lefts: dict[str, int] = {}
        for line, _ in ticket.charges:
            if line.said:
                unit, left = line.unit, self._left(line)
                if unit not in lefts or left < lefts[unit]:
                    lefts[unit] = left
                    headers.update(line.said)
                    headers[_HEADERS[unit][1]] = str(left)
        return headers

    def _left(self, line: Line) -> int:
        """What all workers together have left of it, as far as this one can tell, right after it was charged."""
        return max(0, min(line.whole, (line.item.amount - self._windows.taken(line.item.key)) * self._workers))

    def _give_back(self, charges: list[Charge]) -> None:
        for line, cost in charges:
            self._windows.charge(line.item.key, line.item.get_expiry(), -cost)

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
        lines.append(Line(item, of, limit.burst, "requests", {}))
    for unit, whole in (("requests", limit.requests_per_minute), ("tokens", limit.tokens_per_minute)):
        if whole:
            name, _, reset = _HEADERS[unit]
            minute = _PerMinute(-(-whole // workers), f"{unit}/{of}/{whole}")
            lines.append(Line(minute, of, whole, unit, {name: str(whole), reset: f"{minute.get_expiry()}s"}))
    return tuple(lines)
