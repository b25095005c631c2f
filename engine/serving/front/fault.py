"""Trouble on purpose: added latency and a rate of errors, to show a bad release being caught.

A release asks for it in its `serving.json` ("fault": {"latency_ms", "error_rate", "seed"}). A model server refuses
to start with it unless its spec says `allow_faults`, which only drills and the demonstration do. The trouble is made
in the HTTP front, before the engine sees the request; /ready, /health and /metrics tell the truth throughout.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from engine.serving.settings import FaultSettings
from state.words import ConfigError


@dataclass(frozen=True, slots=True)
class Injected:
    """What to do to one request: wait, then fail or not."""

    delay_s: float
    fails: bool


class FaultInjector:
    """Decides for each request in turn. Equal seeds give equal sequences of failures."""

    def __init__(self, settings: FaultSettings) -> None:
        self._settings = settings
        self._random = random.Random(settings.seed)

    def next(self) -> Injected:
        """The trouble of the next request."""
        fails = self._random.random() < self._settings.error_rate
        return Injected(delay_s=self._settings.latency_ms / 1000.0, fails=fails)


def refuse_unless_allowed(fault: FaultSettings | None, is_allowed: bool, release_id: str) -> None:
    """Raises ConfigError when a release asks for injected faults where they are not allowed."""
    if fault is not None and not is_allowed:
        raise ConfigError(
            f"release {release_id} asks for injected faults ({fault.latency_ms:g} ms, error rate {fault.error_rate:g}), "
            "and this model server was not started with allow_faults",
            hint="serve a release without the fault setting, or allow faults for a drill",
        )
