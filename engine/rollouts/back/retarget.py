"""A rollback whose target cannot be started goes on to an older good release: `rollback SERVICE --to RELEASE` while it rolls back."""

from __future__ import annotations

from sqlmodel import Session

from engine.rollouts import journal, records
from engine.rollouts.back.targets import ready_replicas
from state import audit
from state.models import Rollout
from state.words import Conflict, RolloutState


def retarget(session: Session, seen: records.Opened, target: str, *, actor: str, reason: str) -> str:
    """Have the rollback go on to `target`. Returns what happened. Raises Conflict when it is on its way to where it should go."""
    r = seen.now
    row = session.get(Rollout, r.id)
    if row is None or row.revision != seen.revision or r.state is not RolloutState.ROLLING_BACK:
        raise Conflict(
            f"{r.id} is moving ({r.state}); roll it back first, then return further",
            hint=f"airboss rollback {seen.service} --env {seen.env}",
            code="active_rollout",
        )
    if target == r.to_release:
        raise Conflict(
            f"{target} is what {r.id} returns from: a rollback, once begun, only goes on",
            hint=f"name an older release, or let it return to {r.from_release}",
            code="not_a_way_back",
        )
    if r.from_release == target or (r.from_release and ready_replicas(session, seen.env, r.from_release)):
        raise Conflict(
            f"{r.id} returns to {r.from_release} already, and its replicas answer",
            hint=f"once it has, `airboss rollback {seen.service} --env {seen.env} --to {target}`",
            code="returns_already",
        )
    said = f"{actor} has it return to {target}: no replica of {r.from_release} answers"
    journal.supersede(session, row.id)
    row.from_release, row.message, row.revision = target, said, row.revision + 1
    session.add(row)
    audit.append(session, actor=actor, action="rollout.retarget", ref=f"rollout:{row.id}", reason=reason,
                 detail={"from": r.from_release, "to": target, "message": said})  # fmt: skip
    return said
