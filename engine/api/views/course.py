"""How a rollout went: its weight, and by track requests, errors and latency over time, from the counts the judge decides on."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from sqlmodel import Session, col, select

from engine.api.course_schemas import CourseView, TrackCourse
from engine.observe.rates import quantile
from engine.rollouts import step_rows
from state.models import Evidence, Rollout, RolloutStep
from state.words import RolloutState

POINTS = 60
SHORTEST_STEP_S = 2.0
LONGEST_S = 1800.0
"""Of a longer rollout, its last half hour."""
KEPT = 16
_COLUMNS = ("track", "release_id", "t0", "t1", "requests", "errors", "latency")
_NO_SPLIT = (RolloutState.ROLLING_BACK, RolloutState.ROLLED_BACK, RolloutState.CANCELLED, RolloutState.SUPERSEDED)


@dataclass(frozen=True, slots=True)
class Counted:
    """One interval of one track: `at` its middle, `buckets` cumulative, by upper bound in seconds."""

    track: str
    release_id: str
    at: float
    requests: int
    errors: int
    buckets: dict[str, int]


@dataclass(slots=True)
class _Bin:
    requests: int = 0
    errors: int = 0
    buckets: dict[str, int] = field(default_factory=lambda: defaultdict(int))


def drawn(counts: Iterable[Counted], weights: Sequence[tuple[float, int]], since: float, until: float) -> CourseView:
    """The counts in `POINTS` steps from `since` to `until`; `weights` are (from when, percent), in order. Pure."""
    step_s = max(SHORTEST_STEP_S, (until - since) / POINTS)
    points = max(1, math.ceil((until - since) / step_s - 1e-9))
    bins: dict[tuple[str, str], list[_Bin]] = {}
    for one in counts:
        place = int((one.at - since) // step_s)
        if 0 <= place < points:
            row = bins.setdefault((one.track, one.release_id), [_Bin() for _ in range(points)])[place]
            row.requests += one.requests
            row.errors += one.errors
            for bound, count in one.buckets.items():
                row.buckets[bound] += count
    ends = [since + (n + 1) * step_s for n in range(points)]
    return CourseView(
        since=since,
        step_s=step_s,
        weight=tuple(max((w for at, w in weights[: _before(weights, end)][-1:]), default=0) for end in ends),
        tracks=tuple(_track(track, release, found) for (track, release), found in sorted(bins.items(), reverse=True)),
    )


def _before(weights: Sequence[tuple[float, int]], at: float) -> int:
    return sum(since < at for since, _ in weights)


def _track(track: str, release_id: str, bins: Sequence[_Bin]) -> TrackCourse:
    def ms(q: float) -> tuple[float | None, ...]:
        found = (quantile(one.buckets, q) for one in bins)
        return tuple(None if seconds is None else round(seconds * 1000, 1) for seconds in found)

    return TrackCourse(
        track=track,
        release_id=release_id,
        requests=tuple(one.requests for one in bins),
        error_ratio=tuple(round(one.errors / one.requests, 5) if one.requests else None for one in bins),
        p50_ms=ms(0.5),
        p95_ms=ms(0.95),
    )


def course(session: Session, row: Rollout, now: float) -> CourseView | None:
    """The course of a rollout up to `now` or its end; None before it had traffic, and once its counts are gone."""
    steps = session.exec(
        select(RolloutStep).where(RolloutStep.rollout_id == row.id).order_by(col(RolloutStep.idx))
    ).all()
    begun = [step for step in steps if step.started_at is not None]
    if not begun:
        return None
    until = row.finished_at or now
    since = max(min(step.started_at or until for step in begun), until - LONGEST_S)
    weights = [
        (step.started_at or 0.0, step.weight) for step in begun if step.kind in ("weight", step_rows.VERIFY_STEP)
    ]
    if RolloutState(row.state) in _NO_SPLIT:
        weights.append((max((step.finished_at or 0.0 for step in begun), default=0.0) or row.state_since, 0))
    query = select(*(getattr(Evidence, name) for name in _COLUMNS)).where(
        Evidence.service == row.service,
        Evidence.env == row.env,
        col(Evidence.t1) > since,
        col(Evidence.t1) <= until + 1,
        Evidence.requests > 0,
    )
    counts = [
        Counted(track, release, (t0 + t1) / 2, requests, errors, (latency or {}).get("buckets", {}))
        for track, release, t0, t1, requests, errors, latency in session.execute(query)
    ]
    return drawn(counts, sorted(weights), since, until) if counts and until > since else None


class Courses:
    """Keeps the last ones, so that a screen that asks every second costs a query for each new point only."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[int, float, CourseView | None]] = {}

    def of(self, session: Session, row: Rollout, now: float) -> CourseView | None:
        """The rollout's course; one that is over, or has no new point yet, as it was."""
        revision, at, found = self._kept.get(row.id, (-1, 0.0, None))
        fresh_s = math.inf if row.finished_at and at > row.finished_at else max(2.0, found.step_s / 2 if found else 0.0)
        if revision != row.revision or not at <= now < at + fresh_s:
            found = course(session, row, now)
            self._kept.pop(row.id, None)
            self._kept[row.id] = (row.revision, now, found)
            while len(self._kept) > KEPT:
                self._kept.pop(next(iter(self._kept)))
        return found
