"""How many replicas a service should have. Pure: samples of load in, a number and its reason out.

Demand is the mean number of requests in the replicas (running and waiting): by Little's law arrival rate times time in the
system. The wish, demand over (concurrency × target), does not depend on how many replicas there are, so that one that is still
starting never makes the policy ask for another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from state.autoscale_config import Autoscale

TOLERANCE = 0.1
"""Up only when the wish is this much above what there is; down only when it would fit with this much to spare."""


@dataclass(frozen=True, slots=True)
class TrackLoad:
    """One track at one moment. `sampled` of its `ready` replicas said how they do."""

    demand: float
    """Requests running and waiting, over the replicas that answered."""
    kv_usage: float
    """Mean share of the KV cache in use, 0 to 1."""
    ready: int
    sampled: int
    concurrency: int
    """Requests one replica does well at once."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A service at one moment (`at`: any clock's seconds)."""

    at: float
    tracks: tuple[TrackLoad, ...]

    @property
    def is_whole(self) -> bool:
        """Every replica is ready to serve on some track, and every one of them answered."""
        return bool(self.tracks) and all(0 < t.ready == t.sampled for t in self.tracks)

    def wish(self, target: float) -> float:
        """Replicas a track would need to be at `target`: the busiest track's need, as each track has as many."""
        return max((_wish(track, target) for track in self.tracks), default=0.0)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a decision may not pass. `floor`: what a rollout needs (I13); `room`: how many more memory would hold."""

    floor: int = 0
    room: int | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """How many replicas each track should have, and why."""

    replicas: int
    reason: str


def _wish(track: TrackLoad, target: float) -> float:
    by_requests = track.demand / (max(1, track.concurrency) * target)
    return max(by_requests, track.ready * track.kv_usage / target)


def decide(
    settings: Autoscale, samples: Sequence[Sample], current: int, bounds: Bounds, *, now: float, changed_at: float
) -> Decision:
    """What to have now. `samples` oldest first; `changed_at`: when the number last changed, or the watch began."""
    lowest = min(max(settings.min, bounds.floor), max(settings.max, bounds.floor))
    if current < lowest:
        return Decision(lowest, f"at least {lowest} are to be there")
    if current > max(settings.max, bounds.floor):
        return Decision(max(settings.max, bounds.floor), f"at most {settings.max} may be there")
    return (
        _up(settings, samples, current, bounds, now)
        or _down(settings, samples, current, lowest, now, changed_at)
        or Decision(current, "as many as are needed")
    )


def _up(settings: Autoscale, samples: Sequence[Sample], current: int, bounds: Bounds, now: float) -> Decision | None:
    recent = [s for s in samples if s.at > now - settings.up_window]
    if len(recent) < 2 or samples[0].at > now - settings.up_window:
        return None
    wish = fmean(s.wish(settings.target_utilisation) for s in recent)
    if wish <= current * (1 + TOLERANCE):
        return None
    wanted = min(math.ceil(wish), settings.max)
    allowed = wanted if bounds.room is None else min(wanted, current + max(0, bounds.room))
    used = wish * settings.target_utilisation / current
    said = f"{used:.0%} used over {settings.up_window:g} s, {settings.target_utilisation:.0%} wanted: {wish:.1f} needed"
    if allowed < wanted:
        said += f"; memory has room for {allowed - current} more"
    return Decision(allowed, said) if allowed > current else None


def _down(
    settings: Autoscale, samples: Sequence[Sample], current: int, lowest: int, now: float, changed_at: float
) -> Decision | None:
    if current <= lowest or now - changed_at < settings.down_window:
        return None
    window = [s for s in samples if s.at > now - settings.down_window]
    if not window or samples[0].at > now - settings.down_window or not all(s.is_whole for s in window):
        return None
    if _longest_gap(window, now) > settings.up_window:
        # What was not seen may have been busy: no evidence is never a reason to give something back.
        return None
    peak = max(_means(window, settings, now))
    if peak * (1 + TOLERANCE) > current - 1:
        return None
    return Decision(
        current - 1, f"the busiest {settings.up_window:g} s of {settings.down_window:g} s needed {peak:.1f}"
    )


def _longest_gap(window: Sequence[Sample], now: float) -> float:
    return max((b - a for a, b in pairwise([*(s.at for s in window), now])), default=math.inf)


def _means(window: Sequence[Sample], settings: Autoscale, now: float) -> list[float]:
    """Mean wishes of the stretches of `up_window` that the window is made of, newest first."""
    stretches: dict[int, list[float]] = {}
    for sample in window:
        stretches.setdefault(int((now - sample.at) // settings.up_window), []).append(
            sample.wish(settings.target_utilisation)
        )
    return [fmean(wishes) for wishes in stretches.values()]
