"""What a route may spend in a window of time: retries against requests, tokens against a limit. The clock is passed in."""

from __future__ import annotations

from collections.abc import Callable

from adapters.routing import Choose, Retry

SLOTS = 20
"""A window forgets in steps of a twentieth of its length."""


class Rolling:
    """A sum over the last `window_s` seconds. A clock that goes back adds to the newest step; nothing is forgotten early."""

    def __init__(self, window_s: float, clock: Callable[[], float]) -> None:
        self.window_s = window_s
        self._clock = clock
        self._slot_s = window_s / SLOTS
        self._sums = [0] * SLOTS
        self._total = 0
        self._newest = int(clock() / self._slot_s)

    def add(self, amount: int) -> None:
        """Count `amount` now."""
        self._forget()
        self._sums[self._newest % SLOTS] += amount
        self._total += amount

    def total(self) -> int:
        """The sum in the window that ends now."""
        self._forget()
        return self._total

    def _forget(self) -> None:
        now = int(self._clock() / self._slot_s)
        if now <= self._newest:
            return
        for step in range(self._newest + 1, min(now, self._newest + SLOTS) + 1):
            self._total -= self._sums[step % SLOTS]
            self._sums[step % SLOTS] = 0
        self._newest = now


class RetryBudget:
    """Retries of sent work: without a limit on them, a service that is slow is asked twice as much."""

    def __init__(self, rules: Retry, clock: Callable[[], float]) -> None:
        self.rules = rules
        self.refused = 0
        self._requests = Rolling(rules.window_s, clock)
        self._retries = Rolling(rules.window_s, clock)

    def request(self) -> None:
        """A request came in."""
        self._requests.add(1)

    def take(self) -> bool:
        """Whether one more retry may be made; if so it is counted."""
        allowed = self.rules.minimum + self._requests.total() * self.rules.budget_pct / 100
        if self._retries.total() >= allowed:
            self.refused += 1
            return False
        self._retries.add(1)
        return True


class TokenBudget:
    """Tokens that a route may spend in a window on this worker."""

    def __init__(self, rules: Choose, clock: Callable[[], float]) -> None:
        self.limit = rules.budget_tokens
        self._spent = Rolling(rules.budget_window_s, clock)

    @property
    def window_s(self) -> float:
        """The window's length."""
        return self._spent.window_s

    def spend(self, tokens: int) -> None:
        """An answer took so many tokens, both directions."""
        self._spent.add(tokens)

    @property
    def is_spent(self) -> bool:
        """Nothing is left until the window moves on."""
        return self.limit > 0 and self._spent.total() >= self.limit
