"""Is the foreign server fit for traffic? What was seen of it, and the pure answer."""

from __future__ import annotations

import math
from dataclasses import dataclass

MISSES = 2
"""Probes in a row that must fail: one may have met a server that was restarting a worker."""


@dataclass(slots=True)
class Pulse:
    """What is known of one foreign server. Times are monotonic seconds."""

    detail: str = "starting the backend"
    proof_at: float = -math.inf
    """When it last gave a real answer, to a request or to a probe."""
    misses: int = 0
    """Probes that have failed since."""
    end: str = ""
    """How it ended."""
    is_draining: bool = False
    is_closed: bool = False
    """Draining, and requests are no longer taken."""

    @property
    def has_answered(self) -> bool:
        """It once gave a real answer."""
        return self.proof_at > -math.inf

    def prove(self, now: float) -> None:
        """It gave a real answer."""
        self.proof_at, self.misses, self.detail = now, 0, ""

    def miss(self, why: str) -> None:
        """A probe failed."""
        self.misses += 1
        self.detail = why

    def why_not_serving(self, *, now: float, stuck_after_s: float) -> str | None:
        """None when it can be asked; else the reason. `stuck_after_s`: the longest it may be without an answer."""
        if self.end:
            return f"the backend {self.end}"
        if not self.has_answered:
            return f"starting: {self.detail}"
        if self.misses >= MISSES:
            return f"the backend fails its probes: {self.detail}"
        if now - self.proof_at > stuck_after_s:
            return f"the backend is stuck: no answer for {now - self.proof_at:.1f} s"
        return None

    def why_not_ready(self, *, now: float, stuck_after_s: float) -> str | None:
        """As /ready says it: also a replica that is leaving should get no more requests."""
        reason = self.why_not_serving(now=now, stuck_after_s=stuck_after_s)
        if reason is None and self.is_draining:
            return "draining: this replica is leaving"
        return reason
