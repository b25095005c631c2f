"""Capacity advice by Little's law: L = λ·W (Little 1961). Pure.

λ and W are measured at the replicas over one window: requests that ended a second, and their mean time in a replica less the
time they waited for a slot. L is then how many are served at once on average, whatever the distributions are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

TARGET = 0.75
"""Seed section 5.7: 70 to 80 % in use."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What the replicas of a service did in a window."""

    window_s: float
    requests: int
    busy_s: float
    """Sum of their times in service."""
    waited_s: float
    """Sum of their times in a queue."""
    replicas: int
    concurrency: int
    """Requests one replica does well at once."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """The advice. Headroom is in requests a second; below 0 it is what is missing."""

    arrival_rate: float
    service_time_s: float
    wait_s: float
    in_service: float
    utilisation: float
    recommended_concurrency: int
    recommended_replicas: int
    headroom_rps: float


def advise(measured: Measured, target: float = TARGET) -> Capacity | None:
    """What the measured load needs at `target` utilisation; None when nothing was served."""
    if measured.requests < 1 or measured.window_s <= 0 or measured.replicas < 1:
        return None
    rate = measured.requests / measured.window_s
    service_s = measured.busy_s / measured.requests
    load = rate * service_s
    places = measured.replicas * max(1, measured.concurrency)
    most = places * target / service_s if service_s > 0 else math.inf
    return Capacity(
        arrival_rate=rate,
        service_time_s=service_s,
        wait_s=measured.waited_s / measured.requests,
        in_service=load,
        utilisation=load / places,
        recommended_concurrency=max(1, math.ceil(load / target - 1e-9)),
        recommended_replicas=max(1, math.ceil(load / (target * max(1, measured.concurrency)) - 1e-9)),
        headroom_rps=most - rate,
    )
