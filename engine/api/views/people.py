"""Approvals, freezes and broken glasses, as the console shows them."""

from __future__ import annotations

import time

from sqlmodel import Session, col, select

from engine.api.people_schemas import ApprovalView, FreezeView, GateOfPeople, GlassView
from engine.people import approvals, freezes, glass
from state.config import Config
from state.models import Approval, BrokenGlass, Rollout
from state.words import RolloutState


def gate_view(session: Session, row: Rollout) -> GateOfPeople:
    """A rollout's plan, and everything that was said of it or of an earlier one."""
    here = approvals.gate(session, row)
    said = session.exec(select(Approval).where(Approval.rollout_id == row.id).order_by(col(Approval.id)))
    counts = {one.id for one in here.said}
    waits = row.state == RolloutState.AWAITING_APPROVAL
    timeout_s = float(row.policy.get("approval_timeout", approvals.EXPIRES_AFTER_S))
    return GateOfPeople(
        plan=here.plan, at="start" if here.index == approvals.START else f"step {here.index + 1}", needed=here.needed,
        approvals=here.approvals, expires_at=row.state_since + timeout_s if waits else None,
        said=tuple(ApprovalView(by=a.by, at=a.at, decision=a.decision, reason=a.reason, plan=a.plan_hash,
                                is_void=a.id not in counts) for a in said),
    )  # fmt: skip


def glass_views(session: Session, rollout_id: str = "") -> tuple[GlassView, ...]:
    """Broken glasses, newest first; of one rollout when it is named."""
    rows = glass.all_broken(session)
    return tuple(_glass_view(row) for row in rows if rollout_id in ("", row.rollout_id))


def _glass_view(row: BrokenGlass) -> GlassView:
    return GlassView(**row.model_dump())


def freeze_views(session: Session, config: Config) -> tuple[FreezeView, ...]:
    """What keeps environments still now, and each window's next time."""
    now = time.time()
    return tuple(
        FreezeView(kind=f.kind, name=f.name, env=f.env, by=f.by, reason=f.reason, since=f.since, until=f.until,
                   in_force=f.holds(now))
        for f in freezes.planned(session, config, now)
    )  # fmt: skip
