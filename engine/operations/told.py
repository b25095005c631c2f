"""Telling the second of two people who was first, and what they did."""

from __future__ import annotations

import time

from sqlmodel import Session, col, select

from engine.rollouts.records import Opened
from state.models import Audit
from state.words import Conflict

RECENT_S = 60.0
"""A refusal names who moved the rollout last when it was so short a time ago."""


def demand_unmoved(session: Session, seen: Opened, shown: int | None) -> None:
    """Raise Conflict, saying who moved it, when the rollout has moved past the revision that was shown."""
    if shown is not None and shown != seen.revision:
        who = who_moved(session, seen.now.id, shown)
        raise Conflict(
            f"{seen.now.id} has moved since it was shown (revision {seen.revision}, shown {shown})"
            + (f": {who}" if who else ""),
            hint="look again, then decide",
            code="revision_moved",
        )


def with_who(session: Session, rollout_id: str, shown: int | None, refused: Conflict) -> Conflict:
    """The refusal, with who moved the rollout a moment ago."""
    who = who_moved(session, rollout_id, shown, within_s=None if shown is not None else RECENT_S)
    if not who or who in refused.message:
        return refused
    return Conflict(f"{refused.message}; {who}", hint=refused.hint, code=refused.code)


def who_moved(session: Session, rollout_id: str, shown: int | None, within_s: float | None = None) -> str:
    """Who moved the rollout after revision `shown` (last, without one), when, how; a person before the engine."""
    query = select(Audit).where(Audit.ref == f"rollout:{rollout_id}").order_by(col(Audit.id).desc()).limit(50)
    now = time.time()
    moves = [
        row for row in session.exec(query)
        if "revision" in row.detail
        and (shown is None or int(row.detail["revision"]) > shown)
        and (within_s is None or now - row.at <= within_s)
    ]  # fmt: skip
    people = [row for row in moves if row.actor.startswith("user:")]
    first = next(iter(people if shown is None else reversed(people)), None) or next(iter(moves), None)
    if first is None:
        return ""
    return f"{first.actor} was first, {max(0.0, now - first.at):.0f} s ago: {first.detail.get('message', first.action)}"
