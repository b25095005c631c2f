"""When a replica is healthy: what one ping, or one broken request, changes. Pure; `pool.py` does the pinging.

The gateway alone decides this, by inference readiness (`GET /ready`), not by what the engine believes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

MISSES_TO_EJECT = 2


class Ping(StrEnum):
    """What came of a ping."""

    READY = "ready"
    NOT_READY = "not_ready"
    TIMEOUT = "timeout"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Health:
    """What is known of one replica. A new one is unproven: not healthy until its first good ping."""

    is_healthy: bool
    since: float
    misses: int = 0
    last_error: str = ""
    is_proven: bool = False

    @classmethod
    def unproven(cls, now: float) -> Health:
        """A replica nobody has spoken to yet."""
        return cls(is_healthy=False, since=now)


def after_ping(health: Health, ping: Ping, error: str, now: float, answers_requests: bool) -> Health:
    """The health after a ping. `answers_requests`: a real request got an answer within the last ping's timeout.

    Refused ejects at once: the process is gone. Otherwise two misses in a row do. A replica too busy to answer a
    ping in time, while it does answer requests, has missed nothing; taking it out would only move the load.
    One that was ejected for being late is still asked when no other of its route is healthy (`Pool.silent`).
    """
    if ping is Ping.READY:
        if health.is_healthy:
            return replace(health, misses=0, is_proven=True) if health.misses or not health.is_proven else health
        return Health(is_healthy=True, since=now, last_error=health.last_error, is_proven=True)
    if ping is Ping.TIMEOUT and answers_requests:
        return health
    misses = health.misses + 1
    if health.is_healthy and (ping is Ping.REFUSED or misses >= MISSES_TO_EJECT):
        return replace(health, is_healthy=False, since=now, misses=misses, last_error=error)
    return replace(health, misses=misses, last_error=error)


def after_break(health: Health, error: str, now: float) -> Health:
    """The health after a request could not connect, or was cut before its answer: out at once, until a good ping."""
    if not health.is_healthy:
        return replace(health, last_error=error)
    return replace(health, is_healthy=False, since=now, last_error=error)


def after_silence(health: Health, now: float) -> Health:
    """The health when a first ping got no answer in the time a new table may wait: trusted until it misses.

    A worker that restarts beside busy replicas must serve its kept table at once; one that refuses is never trusted.
    """
    if health.is_proven or health.is_healthy or health.misses:
        return health
    return replace(health, is_healthy=True, since=now)
