"""The rows of children that were spawned: which a place has, which have not ended, how they died. Caller's session."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sqlmodel import Session, col, select

from state.models import Spawn

NEVER_CAME_UP = "never came up: its engine ended before it had begun"


def rows_of(session: Session, owner: str) -> list[tuple[str, str, str]]:
    """Spawn id, digest and state of the children of a place that have not ended, newest first."""
    query = (
        select(Spawn).where(Spawn.owner == owner, col(Spawn.state) != "ended").order_by(col(Spawn.started_at).desc())
    )
    return [(row.spawn_id, row.digest, row.state) for row in session.exec(query)]


def unended(session: Session, kinds: Sequence[str]) -> list[str]:
    """Spawn ids of the children of `kinds` that have not ended."""
    query = select(Spawn.spawn_id).where(col(Spawn.kind).in_(kinds), col(Spawn.state) != "ended")
    return list(session.exec(query))


def deaths_of(session: Session, owner: str, since: float) -> list[float]:
    """When children of the place died by themselves after `since`, oldest first; a deliberate stop begins anew."""
    query = select(Spawn).where(Spawn.owner == owner, Spawn.state == "ended").order_by(col(Spawn.started_at).desc())
    found: list[float] = []
    for row in session.exec(query.limit(32)):
        if row.desired == "stop" or (row.ended_at or 0.0) < since:
            break
        if row.end_cause != NEVER_CAME_UP:
            found.append(row.ended_at or 0.0)
    return found[::-1]


def mark(session: Session, spawn_id: str, **fields: Any) -> None:
    """Set `fields` of a child's row; the first `ready` is when it was ready."""
    row = session.get(Spawn, spawn_id)
    if row is None:
        return
    if fields.get("state") == "ready" and row.ready_at is None:
        row.ready_at = time.time()
    for name, value in fields.items():
        setattr(row, name, value)
    session.add(row)
