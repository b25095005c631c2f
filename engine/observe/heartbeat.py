"""The engine's heartbeat: a GET that a dead man's switch waits for, sent only while the engine observes.

Alerts tell of trouble that the engine can see. Its own death it cannot; whoever stops hearing from it can.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx

from engine.observe.outbound import open_client
from engine.observe.sending import secret_of
from state.words import ConfigError

TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Beat:
    """How the last beats went. `error` is "" when the last one arrived."""

    sent_at: float | None = None
    error: str = ""


class Heartbeat:
    """`tick` sends a beat when one is due."""

    def __init__(
        self,
        url: str | None,
        interval_s: float,
        is_well: Callable[[], bool],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._url = url
        self._interval_s = interval_s
        self._is_well = is_well
        self._clock = clock
        self._due_at = 0.0
        self.last = Beat()

    async def tick(self) -> Beat:
        """Beat if it is time and the engine is well; an engine that no longer observes falls silent on purpose."""
        now = self._clock()
        if not self._url or self._due_at - self._interval_s <= now < self._due_at:
            return self.last
        if not self._is_well():
            self.last = Beat(self.last.sent_at, "withheld: the engine's scraper does not advance")
            return self.last
        self._due_at = now + self._interval_s
        try:
            async with await open_client(TIMEOUT_S) as client:
                (await client.get(secret_of(self._url))).raise_for_status()
        except httpx.HTTPStatusError as error:
            self.last = Beat(self.last.sent_at, f"it answered {error.response.status_code}")
        except (httpx.HTTPError, httpx.InvalidURL, ConfigError) as error:
            # The URL is the switch's secret and stays out of the record.
            self.last = Beat(
                self.last.sent_at, type(error).__name__ if not isinstance(error, ConfigError) else str(error)
            )
        else:
            self.last = Beat(self._clock())
        return self.last
