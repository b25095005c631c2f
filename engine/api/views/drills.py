"""Drills that were played, from the audit log that they are recorded in."""

from __future__ import annotations

from sqlmodel import Session, col, select

from engine.api.schemas import DrillView
from state.models import Audit

LIMIT = 200


def drill_views(session: Session, limit: int = LIMIT) -> tuple[DrillView, ...]:
    """The newest drills first."""
    # A range, so that the index on `ref` finds them among a million rows.
    query = select(Audit).where(col(Audit.ref) >= "drill:", col(Audit.ref) < "drill;", Audit.action == "drill.finish")
    rows = session.exec(query.order_by(col(Audit.id).desc()).limit(limit))
    return tuple(DrillView(id=row.id or 0, at=row.at, by=row.actor, **row.detail) for row in rows)


def newest_drill(session: Session) -> DrillView | None:
    """The one that was played last."""
    return next(iter(drill_views(session, 1)), None)
