"""What the scraper writes and reads in the store. Functions of a session; the caller runs them in one transaction."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields

from sqlalchemy import UniqueConstraint, delete, insert
from sqlmodel import Session, col, select

from engine.observe.fold import CountRow, Cursor, Folded, MinuteCounts, MinuteKey
from state import ids
from state.models import Evidence, KeyValue, Rollout, SliMinute
from state.words import TERMINAL_STATES

CURSOR_KEY = "scrape."
KEEP_ROLLOUT_S = 86_400.0
KEEP_OTHER_S = 3_600.0
"""Rows outside a rollout judge nothing: they feed the last minutes on screen, and minutes are kept on their own."""
PRUNE_ROWS = 5_000
EVIDENCE_KEY: tuple[str, ...] = next(
    tuple(column.name for column in constraint.columns)
    for constraint in Evidence.metadata.tables["evidence"].constraints
    if isinstance(constraint, UniqueConstraint)
)
"""The columns by which the store tells rows apart."""
_FIELDS = tuple(field.name for field in fields(CountRow))


def sum_minutes(found: Iterable[Folded]) -> dict[MinuteKey, MinuteCounts]:
    """The minutes of all workers together."""
    total: dict[MinuteKey, MinuteCounts] = {}
    for folded in found:
        for key, counts in folded.minutes.items():
            total[key] = total.get(key, MinuteCounts()) + counts
    return total


def read_cursors(session: Session) -> dict[str, Cursor]:
    """How far each worker has been read."""
    rows = session.exec(select(KeyValue).where(col(KeyValue.key).startswith(CURSOR_KEY, autoescape=True)))
    return {row.key.removeprefix(CURSOR_KEY): Cursor(**json.loads(row.value)) for row in rows}


def read_newest(session: Session, since: float) -> tuple[CountRow, ...]:
    """The rows since `since`, with which a new engine fills its screens."""
    columns = [getattr(Evidence, name) for name in _FIELDS]
    rows = session.execute(select(*columns).where(col(Evidence.t1) > since).order_by(col(Evidence.t1)))
    return tuple(CountRow(*row) for row in rows)


def write_batch(
    session: Session,
    rows: Sequence[CountRow],
    minutes: Mapping[MinuteKey, MinuteCounts],
    cursors: Mapping[str, Cursor],
) -> None:
    """Rows, minutes and cursors: all of a round or nothing of it."""
    if rows:
        session.execute(insert(Evidence), [{name: getattr(row, name) for name in _FIELDS} for row in rows])
    for (service, env, minute), counts in minutes.items():
        kept = minute_row(session, service, env, minute)
        kept.requests += counts.requests
        kept.errors += counts.errors
        kept.slow += counts.slow
    for boot_id, cursor in cursors.items():
        ids.put(session, CURSOR_KEY + boot_id, json.dumps(asdict(cursor)))


def minute_row(session: Session, service: str, env: str, minute: int) -> SliMinute:
    """The live row of a minute, made when there is none yet."""
    row = session.get(SliMinute, (service, env, minute))
    if row is None:
        row = SliMinute(service=service, env=env, minute=minute)
        session.add(row)
    return row


def read_over(session: Session) -> frozenset[str]:
    """Rollouts that have ended: their names stand in routes still, and mean nothing any more."""
    return frozenset(session.exec(select(Rollout.id).where(col(Rollout.state).in_([s.value for s in TERMINAL_STATES]))))


def prune(session: Session, now: float, keep_minutes_s: float) -> int:
    """Drop what is too old, at most PRUNE_ROWS rows of evidence; returns how many."""
    old = (
        select(Evidence.id)
        .where(
            (col(Evidence.t1) < now - KEEP_ROLLOUT_S)
            | ((col(Evidence.t1) < now - KEEP_OTHER_S) & (Evidence.rollout_id == ""))
        )
        .limit(PRUNE_ROWS)
    )
    gone = session.execute(delete(Evidence).where(col(Evidence.id).in_(old)))
    session.execute(delete(SliMinute).where(col(SliMinute.minute) < int((now - keep_minutes_s) // 60)))
    return int(gone.rowcount)  # type: ignore[attr-defined]


def forget(session: Session, spawn_ids: Iterable[str]) -> None:
    """Drop the cursors of workers whose files are gone."""
    for spawn_id in spawn_ids:
        session.execute(delete(KeyValue).where(col(KeyValue.key) == CURSOR_KEY + spawn_id))
