"""What a route's answers are measured by, beyond errors and time: their quality and their cost. Values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class QualityCheck:
    """One check of an answer's text. `kind`: matches, forbids, json, refusal, length, http or command."""

    name: str
    kind: str
    pattern: str = ""
    min_chars: int = 0
    max_chars: int = 0
    url: str = ""
    command: tuple[str, ...] = ()
    timeout_s: float = 5.0


@dataclass(frozen=True, slots=True)
class QualityPolicy:
    """The checks of a service; `sample` percent of its answers are looked at, so many at once, so many waiting.

    Of `drift` percent of the requests the kind of text is counted.
    """

    checks: tuple[QualityCheck, ...]
    sample: float = 100.0
    concurrency: int = 4
    queue: int = 64
    drift: float = 0.0


@dataclass(frozen=True, slots=True)
class CostPolicy:
    """The price of a replica's hour, and what makes a request a dear one; a ceiling of 0 is none."""

    usd_per_hour: float
    max_usd_per_request: float = 0.0
    max_usd_per_1k_tokens: float = 0.0

    def is_dear(self, busy_s: float, tokens: int) -> bool:
        """Whether a request that took `busy_s` of a replica's time for `tokens` tokens is above a ceiling."""
        usd = busy_s * self.usd_per_hour / 3600
        if self.max_usd_per_request and usd > self.max_usd_per_request:
            return True
        return bool(self.max_usd_per_1k_tokens and tokens and usd * 1000 / tokens > self.max_usd_per_1k_tokens)


@dataclass(frozen=True, slots=True)
class Measures:
    """What of a service's answers is measured."""

    quality: QualityPolicy | None = None
    cost: CostPolicy | None = None
