"""Break-glass: going past an approval, a freeze or the second person, with a reason, until somebody else looks at it."""

from __future__ import annotations

import time
from collections.abc import Sequence

from sqlmodel import Session, col, func, select

from engine.access import Actor
from engine.people import approvals
from engine.people.freezes import Freeze
from state import audit
from state.models import BrokenGlass, Rollout
from state.people_config import PeopleConfig
from state.words import Conflict, Denied


def break_glass(
    session: Session, row: Rollout, who: str, verb: str, reason: str, passed: Sequence[str]
) -> BrokenGlass | None:
    """Record what `who` went past. Nothing in the way breaks no glass: None."""
    if not passed:
        return None
    broken = BrokenGlass(rollout_id=row.id, service=row.service, env=row.env, verb=verb, by=who, at=time.time(),
                         reason=reason, passed="; ".join(passed))  # fmt: skip
    session.add(broken)
    session.flush()
    audit.append(session, actor=who, action="glass.break", ref=f"rollout:{row.id}", reason=reason,
                 detail={"glass": broken.id, "verb": verb, "passed": broken.passed, "env": row.env})  # fmt: skip
    return broken


def break_for_deploy(session: Session, row: Rollout, who: str, reason: str, frozen: Sequence[str]) -> None:
    """A deployment that neither a freeze nor a missing approval stops."""
    past, needed = list(frozen), int(row.policy["approvals"])
    if needed:
        past.append(f"{needed} approval(s)")
    if break_glass(session, row, who, "deploy", reason, past) and needed:
        approvals.say(session, row, who, approvals.BREAK_GLASS, reason)


def still_frozen(session: Session, rollout_id: str, frozen: Sequence[Freeze]) -> tuple[Freeze, ...]:
    """What of `frozen` holds the rollout still: a person went past what was there when they broke its glass, no further."""
    newest = select(func.max(BrokenGlass.at)).where(BrokenGlass.rollout_id == rollout_id)
    broken_at = session.exec(newest).one()
    return tuple(one for one in frozen if broken_at is None or one.since > broken_at)


def unacknowledged(session: Session, service: str = "", env: str = "") -> tuple[BrokenGlass, ...]:
    """Broken glasses that nobody else has looked at, oldest first."""
    query = select(BrokenGlass).where(col(BrokenGlass.acked_at).is_(None))
    if service:
        query = query.where(BrokenGlass.service == service)
    if env:
        query = query.where(BrokenGlass.env == env)
    return tuple(session.exec(query.order_by(col(BrokenGlass.id))))


def all_broken(session: Session, limit: int = 200) -> tuple[BrokenGlass, ...]:
    """Every broken glass, newest first."""
    return tuple(session.exec(select(BrokenGlass).order_by(col(BrokenGlass.id).desc()).limit(limit)))


def acknowledge(session: Session, number: int, actor: Actor, people: PeopleConfig, reason: str) -> None:
    """Take the flag down. Raises Denied to the person who broke it, Conflict when it was taken down already."""
    broken = session.get(BrokenGlass, number)
    if broken is None:
        raise Conflict(
            f"there is no broken glass {number}", hint="`airboss break-glass list` shows them", code="no_glass"
        )
    if broken.acked_at is not None:
        raise Conflict(f"{broken.acked_by} has acknowledged it already", code="acked")
    if people.person_behind(broken.by.removeprefix("user:")) == people.person_behind(actor.user):
        raise Denied(f"{actor.user} broke this glass: somebody else must look at it",
                     hint="ask another approver; `airboss access list` says who they are", code="own_glass")  # fmt: skip
    broken.acked_by, broken.acked_at, broken.ack_reason = actor.name, time.time(), reason
    session.add(broken)
    audit.append(session, actor=actor.name, action="glass.ack", ref=f"rollout:{broken.rollout_id}", reason=reason,
                 detail={"glass": number, "by": broken.by, "env": broken.env})  # fmt: skip
