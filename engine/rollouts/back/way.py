"""The rollback plan: what is known of the way back → what happens in which order, in how many seconds, at what cost. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from engine.rollouts.compatibility import Difference, Level


class Warmth(StrEnum):
    """Whether the release one returns to could take the traffic this instant."""

    WARM = "warm"
    PARTLY = "partly warm"
    COLD = "cold"


@dataclass(frozen=True, slots=True)
class Way:
    """What is known of a way back. `live` is release → percent now; `leaves` the release that is given up."""

    service: str
    env: str
    target: str
    leaves: str
    live: Mapping[str, int]
    ready: int
    """Replicas of `target` that answer."""
    wanted: int
    """Replicas that the service's load needs."""
    leaving: int
    """Replicas of `leaves` that answer."""
    start_s: float
    switch_s: float
    is_measured: bool
    """`start_s` was measured here; otherwise it is a guess."""
    changes: tuple[Difference, ...] = ()
    """What goes back with the release."""
    is_promoted: bool = True
    """`leaves` is stable: the registry calls it champion, or soon would."""
    passed_over: tuple[str, ...] = ()
    warm_until: float | None = None

    @property
    def needed(self) -> int:
        """Replicas that must answer before traffic moves."""
        return capacity_for(self.wanted, 100 - self.live.get(self.target, 0))


@dataclass(frozen=True, slots=True)
class WayStep:
    """One effect of the plan."""

    object: str
    field: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class BackPlan:
    """The plan as every front and the file beside the store show it."""

    target: str
    warmth: Warmth
    expected_s: float
    steps: tuple[WayStep, ...]
    notes: tuple[str, ...]
    sheds: str
    """What is not served on the way, in a sentence; empty: nothing."""


def capacity_for(replicas: int, moving_pct: int) -> int:
    """Replicas that must answer before `moving_pct` of the traffic moves to them (I5): their share, at least one."""
    return max(1, math.ceil(replicas * moving_pct / 100))


def plan_back(way: Way) -> BackPlan:
    """Capacity that is missing first, then traffic, then the capacity given up, then the registry."""
    missing = max(0, way.needed - way.ready)
    warmth = Warmth.WARM if not missing else Warmth.PARTLY if way.ready else Warmth.COLD
    sheds = _sheds(way, missing)
    return BackPlan(
        target=way.target,
        warmth=warmth,
        expected_s=round(way.switch_s + (way.start_s if missing else 0.0), 1),
        steps=tuple(_steps(way, missing)),
        notes=tuple(_notes(way, missing, sheds)),
        sheds=sheds,
    )


def _steps(way: Way, missing: int) -> list[WayStep]:
    steps = []
    if missing:
        steps.append(WayStep(f"{way.env} replicas", way.target, str(way.ready), str(max(way.needed, way.wanted))))
    for release, share in way.live.items():
        steps.append(
            WayStep(
                f"{way.env} traffic", f"to {release}", f"{share} %", "100 %" if release == way.target else "0 %"
            )
        )  # fmt: skip
    if way.target not in way.live:
        steps.append(WayStep(f"{way.env} traffic", f"to {way.target}", "0 %", "100 %"))
    steps += [WayStep("goes back with it", d.part, d.before, d.after) for d in way.changes]
    if way.leaving:
        steps.append(WayStep(f"{way.env} replicas", way.leaves, str(way.leaving), "0, once their streams have ended"))
    if way.is_promoted:
        steps.append(WayStep("registry", "champion", way.leaves, way.target))
    steps.append(WayStep("registry", way.leaves, "champion" if way.is_promoted else "challenger", "rejected"))
    return steps


def _notes(way: Way, missing: int, sheds: str) -> list[str]:
    notes = [f"{release} is passed over: its files are gone" for release in way.passed_over]
    if missing:
        basis = "as its last starts took" if way.is_measured else "a guess: no start of it was measured here"
        state = "cold" if not way.ready else f"partly warm ({way.ready} of {way.needed} replicas)"
        start = f"{missing} replica" + ("s" if missing > 1 else "")
        notes.append(f"{way.target} is {state}: {start} must start first, about {way.start_s:.0f} s ({basis})")
    if sheds:
        notes.append(sheds)
    notes += [f"{d.part}: {d.says}" for d in way.changes if d.level is not Level.COMPATIBLE]
    return notes


def _sheds(way: Way, missing: int) -> str:
    if not missing:
        return ""
    if way.leaving:
        return f"nothing is shed: {way.leaves} serves until {way.target} has the replicas for its traffic"
    if not way.ready:
        return f"everything is shed for about {way.start_s:.0f} s: no replica of either release answers"
    short = 100 * missing / way.needed
    return (
        f"up to {short:.0f} % of the load is shed for about {way.start_s:.0f} s: {way.leaves} does not answer, so "
        f"traffic moves to the {way.ready} of {way.needed} replicas that do"
    )
