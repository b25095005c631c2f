"""The embedded metrics source: what the judge asks, answered from the evidence that was ingested."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import String, cast
from sqlmodel import Session, col, select

from adapters.ports import ArmCounts, ArmEvidence, Interval, Unsafe
from engine.observe.fold import ATTEMPT_FAILURES, UNSAFE
from engine.observe.scraper import Scraper
from state.models import Evidence
from state.store import Store
from state.words import Track

BUCKET_S = 1
HOLE_S = 0.5
"""Time between two of a worker's intervals that is missing, and not a timer's jitter."""
LEAD_S = 2.0
"""How long after a step's weight was acknowledged its first interval may begin: one snapshot, and one for luck."""
KEPT_FOLDS = 16


@dataclass(frozen=True, slots=True)
class Span:
    """One worker's counts of one track in [t0, t1)."""

    boot_id: str
    t0: float
    t1: float
    track: str
    counts: ArmCounts


@dataclass(slots=True)
class ArmFold:
    """Spans of all workers summed into common one-second buckets. Pure; fed in the order of ingestion.

    A worker's snapshots are ingested in their order, so the time between the end of one and the start of the next is a
    hole in that worker's counts, whatever the others counted meanwhile.
    """

    last_id: int = 0
    newest_t1: float | None = None
    has_baseline: bool = False
    """A baseline track was counted: the canary is compared with it, and with stable no more."""
    _arms: dict[int, dict[str, ArmCounts]] = field(default_factory=dict)
    _extent: dict[str, tuple[float, float]] = field(default_factory=dict)
    _holes: list[tuple[float, float]] = field(default_factory=list)

    def add(self, spans: Sequence[Span]) -> None:
        """Take spans in: all that one look found."""
        # By the order of ingestion, not the largest time: after a clock set back the newest count is the earlier one.
        self.newest_t1 = max((span.t1 for span in spans), default=self.newest_t1)
        for span in spans:
            bucket = int((span.t0 + span.t1) / 2) // BUCKET_S
            arms = self._arms.setdefault(bucket, {})
            arms[span.track] = arms.get(span.track, ArmCounts()) + span.counts
            self.has_baseline = self.has_baseline or span.track == Track.BASELINE
            first, last = self._extent.get(span.boot_id, (span.t0, span.t0))
            if span.t0 - last > HOLE_S:
                self._holes.append((last, span.t0))
            self._extent[span.boot_id] = (min(first, span.t0), max(last, span.t1))

    def intervals(self) -> tuple[Interval, ...]:
        """The buckets in time order; a second without any count has none."""
        beside, none = Track.BASELINE if self.has_baseline else Track.STABLE, ArmCounts()
        return tuple(
            Interval(
                float(bucket * BUCKET_S),
                float((bucket + 1) * BUCKET_S),
                self._arms[bucket].get(beside, none),
                self._arms[bucket].get(Track.CANARY, none),
            )
            for bucket in sorted(self._arms)
        )

    def gap_s(self, since: float, silent: Mapping[str, float] | None = None) -> float:
        """Seconds from `since` to the newest count in which some worker's counts are missing.

        They are missing where a worker's own numbers jump, where no worker has any (all were dead), and, for a worker
        that is alive and does not answer (`silent`: boot id → where its last count ended), from then on.
        """
        if self.newest_t1 is None:
            return 0.0
        end = max(last for _, last in self._extent.values())
        holes = list(self._holes)
        covered = since
        for first, last in sorted(self._extent.values()):
            if first - covered > (LEAD_S if covered == since else HOLE_S):
                holes.append((covered, first))
            covered = max(covered, last)
        holes.extend((max(since, last), end) for last in (silent or {}).values())
        return union_length(holes, since, end)


def union_length(spans: Iterable[tuple[float, float]], start: float, end: float) -> float:
    """How much of [start, end] the spans cover together."""
    total, reached = 0.0, start
    for first, last in sorted(spans):
        first, last = max(first, reached), min(last, end)
        if last > first:
            total += last - first
            reached = last
    return total


class EmbeddedMetrics:
    """`adapters.ports.MetricsSource` over the store's evidence.

    Each question about a step keeps its fold, so that a look reads only what came since the last one.
    """

    def __init__(self, store: Store, scraper: Scraper, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._scraper = scraper
        self._clock = clock
        self._folds: dict[tuple[str, str, str, int, float], ArmFold] = {}

    async def arms(self, service: str, env: str, rollout_id: str, table_revision: int, since: float) -> ArmEvidence:
        """Stable and canary since a step's weight was acknowledged: rows of this rollout at this revision or later.

        A request is counted under the revision that admitted it, so none from before the step is among them.
        """
        # An engine that was away would find its own absence in the store, call the counts stale and pause the rollout.
        await self._scraper.caught_up()
        now = self._clock()
        status = self._scraper.status()
        if trouble := status.trouble(now):
            return ArmEvidence((), gap_s=0.0, age_s=None, trouble=trouble)
        key = (service, env, rollout_id, table_revision, since)
        fold = self._folds.pop(key, None) or ArmFold()
        after = fold.last_id
        last_id, spans = await self._store.read(lambda session: _spans(session, key, after))
        if fold.last_id == after:  # else another look has taken these in meanwhile
            fold.add(spans)
            fold.last_id = max(after, last_id)
        self._folds[key] = fold
        while len(self._folds) > KEPT_FOLDS:
            self._folds.pop(next(iter(self._folds)))
        age_s = None if fold.newest_t1 is None else max(0.0, now - fold.newest_t1)
        unsafe = await self._store.read(lambda session: _unsafe(session, key))
        return ArmEvidence(
            fold.intervals(),
            gap_s=fold.gap_s(since, status.silent(now)),
            age_s=age_s,
            unsafe_stable=unsafe.get(Track.BASELINE if fold.has_baseline else Track.STABLE, Unsafe()),
            unsafe_canary=unsafe.get(Track.CANARY, Unsafe()),
            is_baseline=fold.has_baseline,
        )

    async def attempt_failures(self, rollout_id: str, table_revision: int, track: str) -> int:
        """Attempts on `track` that failed and were answered elsewhere: a broken canary that retries hide."""

        def count(session: Session) -> int:
            rows = session.exec(
                select(Evidence.codes).where(
                    Evidence.rollout_id == rollout_id,
                    col(Evidence.table_revision) >= table_revision,
                    Evidence.track == track,
                )
            )
            return sum(codes.get(ATTEMPT_FAILURES, 0) for codes in rows)

        return await self._store.read(count)


def _unsafe(session: Session, key: tuple[str, str, str, int, float]) -> dict[str, Unsafe]:
    """Each track's unsafe answers since the step began."""
    service, env, rollout_id, table_revision, since = key
    rows = session.execute(
        select(Evidence.track, Evidence.codes).where(
            Evidence.rollout_id == rollout_id,
            col(Evidence.table_revision) >= table_revision,
            Evidence.service == service,
            Evidence.env == env,
            col(Evidence.t1) > since,
            cast(Evidence.codes, String).contains(UNSAFE),
        )
    ).all()
    answers: dict[str, dict[str, int]] = {}
    for track, codes in rows:
        callers = answers.setdefault(track, {})
        for name, count in codes.items():
            if name.startswith(UNSAFE):
                callers[name] = callers.get(name, 0) + count
    return {track: Unsafe(sum(callers.values()), len(callers)) for track, callers in answers.items()}


def _spans(session: Session, key: tuple[str, str, str, int, float], after_id: int) -> tuple[int, tuple[Span, ...]]:
    service, env, rollout_id, table_revision, since = key
    rows = session.execute(
        select(
            col(Evidence.id),
            col(Evidence.boot_id),
            col(Evidence.t0),
            col(Evidence.t1),
            col(Evidence.track),
            col(Evidence.requests),
            col(Evidence.errors),
            col(Evidence.slow),
            col(Evidence.checked),
            col(Evidence.failed),
            col(Evidence.priced),
            col(Evidence.dear),
            col(Evidence.busy_s),
            col(Evidence.tokens),
        )  # type: ignore[call-overload]
        .where(
            col(Evidence.id) > after_id,
            Evidence.rollout_id == rollout_id,
            col(Evidence.table_revision) >= table_revision,
            Evidence.service == service,
            Evidence.env == env,
            col(Evidence.t1) > since,
        )
        .order_by(col(Evidence.id))
    ).all()
    spans = tuple(
        Span(
            r.boot_id,
            r.t0,
            r.t1,
            r.track,
            ArmCounts(r.requests, r.errors, r.slow, r.checked, r.failed, r.priced, r.dear, r.busy_s, r.tokens),
        )
        for r in rows
    )
    return (int(rows[-1].id) if rows else after_id), spans
