"""Before each adapter: one limit over all its tries, a breaker for a server that is down, and since when it is.

One guard an adapter (Alertmanager: one a peer), so that none holds up another. Retries are stamina's, the breaker is pybreaker's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

import pybreaker
import stamina

from state.words import AirbossError, TimedOut, Unreachable

T = TypeVar("T")

TRIES = 2
FAILURES_TO_OPEN = 3
REST_S = 15.0
"""How long a server that is down is left alone; then one call goes through to see."""
_DOWN_CODES = frozenset({"auth", "registry_damaged"})


@dataclass(frozen=True, slots=True)
class Standing:
    """How an adapter stands; `since` (Unix seconds) is when the first of its failures in a row was. None: it is up."""

    name: str
    error: str
    since: float | None
    goes_on: str
    """What still works without it."""


class Guard:
    """Guards the calls of one adapter. An answer that says no (not found, conflict) is an answer: the adapter is up."""

    def __init__(
        self, name: str, *, goes_on: str, rest_s: float = REST_S, clock: Callable[[], float] = time.time
    ) -> None:
        self.name, self._goes_on, self._rest_s, self._clock = name, goes_on, rest_s, clock
        self._error = ""
        self._since: float | None = None
        self._breaker = pybreaker.CircuitBreaker(
            fail_max=FAILURES_TO_OPEN,
            reset_timeout=rest_s,
            exclude=[lambda error: not is_outage(error)],
            throw_new_error_on_trip=False,
            name=name,
        )

    async def call(self, ask: Callable[[], Awaitable[T]], *, limit_s: float, tries: int = TRIES) -> T:
        """What `ask` answers, asked again after a short wait where nothing came, all within `limit_s`.

        Raises what `ask` raised last, and Unreachable without asking while the adapter is left alone.
        """
        try:
            with self._breaker.calling():
                answer = await self._tried(ask, limit_s, tries)
        except pybreaker.CircuitBreakerError:
            raise Unreachable(
                f"{self._error} (down since {_clock(self._since)}; it is asked again within {self._rest_s:g} s)",
                hint="it comes back by itself once the server answers",
            ) from None
        except AirbossError as error:
            self._note(error)
            raise
        self._note(None)
        return answer

    def standing(self) -> Standing:
        """How the adapter stands now."""
        return Standing(self.name, self._error, self._since, self._goes_on)

    async def _tried(self, ask: Callable[[], Awaitable[T]], limit_s: float, tries: int) -> T:
        # No further try is begun once half of the time is spent: it could not end.
        again = stamina.retry_context(
            on=Unreachable, attempts=tries, timeout=limit_s / 2, wait_initial=0.1, wait_max=1.0, wait_jitter=0.5
        )
        try:
            async with asyncio.timeout(limit_s):
                async for attempt in again:
                    with attempt:
                        return await ask()
        except TimeoutError:
            raise Unreachable(
                f"{self.name}: no answer within {limit_s:g} s", hint="see the server's load and the way to it"
            ) from None
        raise AssertionError("stamina ends with an answer or an error")

    def _note(self, error: AirbossError | None) -> None:
        if error is None or not is_outage(error):
            self._error, self._since = "", None
            return
        self._error = error.message
        self._since = self._clock() if self._since is None else self._since


def is_outage(error: BaseException) -> bool:
    """Whether the error says that an adapter does not work, and not that it said no."""
    return isinstance(error, Unreachable | TimedOut) or (isinstance(error, AirbossError) and error.code in _DOWN_CODES)


def _clock(at: float | None) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%H:%M:%S} UTC" if at is not None else "just now"
