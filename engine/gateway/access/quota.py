"""Rate limits: requests and tokens a minute, and bursts, per key, per tenant and per address.

Workers know nothing of each other, so each enforces its share: the limit divided by the number of workers, rounded up.
Tokens are estimated at admission and corrected when the answer says what it really took.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from limits import RateLimitItem, RateLimitItemPerMinute, RateLimitItemPerSecond
from limits.strategies import MovingWindowRateLimiter

from engine.gateway.access.identity import Identity
from engine.gateway.access.window import MemoryWindows
from engine.gateway.answers import Refused, error_answer
from state.access_config import RateConfig, RateLimit


@dataclass(frozen=True, slots=True)
class Charge:
    """One limit that a request is held to. `whole` is the limit over all workers, `item` this worker's share."""

    item: RateLimitItem
    of: str
    whole: int
    cost: int
    unit: str
    """"requests" or "tokens"."""


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
        charges = tuple(charge for of, limit in limits for charge in self._charges(of, limit, estimate))
        for charge in charges:
            if not self._limiter.test(charge.item, charge.of, cost=charge.cost):
                raise self._refused(charge)
        for charge in charges:
            self._limiter.hit(charge.item, charge.of, cost=charge.cost)
        return Ticket(charges, estimate)

    def settle(self, ticket: Ticket, tokens: int) -> None:
        """The request took `tokens` in truth: charge the rest, or give back."""
        for charge in ticket.charges:
            if charge.unit == "tokens" and tokens != charge.cost:
                key, expiry = charge.item.key_for(charge.of), charge.item.get_expiry()
                self._windows.charge(key, expiry, tokens - charge.cost)

    def headers(self, ticket: Ticket) -> dict[str, str]:
        """`x-ratelimit-*` as OpenAI's API has them: of each unit, the limit with the least left."""
        headers: dict[str, str] = {}
        for unit in ("requests", "tokens"):
            per_minute = [c for c in ticket.charges if c.unit == unit and c.item.get_expiry() > 1]
            if not per_minute:
                continue
            left = [(self._left(charge), i) for i, charge in enumerate(per_minute)]
            remaining, index = min(left)
            charge = per_minute[index]
            wait = self._windows.wait_s(charge.item.key_for(charge.of), charge.item.amount, 60, charge.item.amount)
            headers[f"X-Ratelimit-Limit-{unit.title()}"] = str(charge.whole)
            headers[f"X-Ratelimit-Remaining-{unit.title()}"] = str(remaining)
            headers[f"X-Ratelimit-Reset-{unit.title()}"] = f"{math.ceil(wait)}s"
        return headers

    def _left(self, charge: Charge) -> int:
        stats = self._limiter.get_window_stats(charge.item, charge.of)
        return max(0, min(charge.whole, stats.remaining * self._workers))

    def _charges(self, of: str, limit: RateLimit, tokens: int) -> Iterator[Charge]:
        if limit.burst:
            yield Charge(RateLimitItemPerSecond(self._share(limit.burst)), f"burst/{of}", limit.burst, 1, "requests")
        if limit.requests_per_minute:
            item = RateLimitItemPerMinute(self._share(limit.requests_per_minute))
            yield Charge(item, f"requests/{of}", limit.requests_per_minute, 1, "requests")
        if limit.tokens_per_minute:
            share = self._share(limit.tokens_per_minute)
            # One request that is larger than the whole share may go when nothing else was taken, else it never could.
            cost = min(tokens, share)
            yield Charge(RateLimitItemPerMinute(share), f"tokens/{of}", limit.tokens_per_minute, cost, "tokens")

    def _share(self, limit: int) -> int:
        return -(-limit // self._workers)

    def _refused(self, charge: Charge) -> Refused:
        key, expiry = charge.item.key_for(charge.of), charge.item.get_expiry()
        wait_s = max(1, math.ceil(self._windows.wait_s(key, charge.item.amount, expiry, charge.cost)))
        whose = charge.of.split("/", 1)[1]
        span = "minute" if expiry > 1 else "second"
        message = f"{whose} may use {charge.whole} {charge.unit} a {span} here; try again in {wait_s} s"
        headers = {
            "Retry-After": str(wait_s),
            f"X-Ratelimit-Limit-{charge.unit.title()}": str(charge.whole),
            f"X-Ratelimit-Remaining-{charge.unit.title()}": "0",
            f"X-Ratelimit-Reset-{charge.unit.title()}": f"{wait_s}s",
        }
        reason = "token_limited" if charge.unit == "tokens" else "rate_limited"
        return Refused(reason, error_answer(429, charge.unit, "rate_limit_exceeded", message, headers=headers))
