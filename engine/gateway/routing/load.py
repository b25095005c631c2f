"""What a route does as it fills: whose requests still come in, whose answers are cut short. Pure decisions.

Interactive outlives batch, batch outlives background: a class is admitted while the route, on this worker, is less full
than the class's percent, so the lowest is turned away first and the highest keeps what it needs.
"""

from __future__ import annotations

from dataclasses import dataclass

from adapters.routing import LoadLimits

CLASS_HEADER = "X-Airboss-Class"
CLASSES = ("interactive", "batch", "background")
"""Highest first. What is no class is the highest: an unknown word must not make anyone wait."""


@dataclass(frozen=True, slots=True)
class LoadDecision:
    """What becomes of a request at this load. `cap_max_tokens` 0 caps nothing."""

    is_admitted: bool
    cap_max_tokens: int = 0
    wants_fallback: bool = False


def class_of(asked: str, granted: str = "") -> str:
    """The class of a request: what its key grants, or the lower one it asks for itself. No key grants the highest."""
    highest = CLASSES.index(granted) if granted in CLASSES else 0
    return CLASSES[max(highest, CLASSES.index(asked) if asked in CLASSES else 0)]


def decide_load(limits: LoadLimits, max_inflight: int, inflight: int, request_class: str) -> LoadDecision:
    """What to do with a request of `request_class` while `inflight` are on the route; `max_inflight` is the worker's."""
    limit = limits.max_inflight or max_inflight
    share: int = getattr(limits, request_class)
    is_bounded = limits.max_inflight > 0 or share < 100  # else the worker's own limit turns it away, and says so
    if is_bounded and inflight * 100 >= share * limit:
        return LoadDecision(is_admitted=False)
    cap, wants_fallback = 0, False
    for stage in limits.stages:
        if inflight * 100 < stage.at * limit:
            continue
        if stage.shed and CLASSES.index(request_class) >= CLASSES.index(stage.shed):
            return LoadDecision(is_admitted=False)
        wants_fallback = wants_fallback or stage.fallback
        if stage.cap_max_tokens:
            cap = min(cap or stage.cap_max_tokens, stage.cap_max_tokens)
    return LoadDecision(True, cap, wants_fallback)
