"""What the end of a rollout makes of its release: Production, Archived or Rejected. Caller's session."""

from __future__ import annotations

from sqlmodel import Session, col, or_, select

from engine.rollouts import effects as fx
from engine.rollouts.values import Move
from state.models import Intent, LineageEdge, Release, Rollout, RolloutStep
from state.words import Lifecycle, RolloutState


def follow(session: Session, row: Rollout, move: Move) -> None:
    """A release that completes is Production and the one before Archived; one that is rolled back is Rejected."""
    if move.state not in (RolloutState.COMPLETED, RolloutState.ROLLED_BACK):
        return
    release = session.get(Release, row.to_release)
    if release is None:
        return
    if move.state is RolloutState.COMPLETED:
        release.lifecycle, release.rejected_reason = Lifecycle.PRODUCTION.value, ""
        before = session.get(Release, row.from_release) if row.from_release else None
        if before is not None and before.lifecycle == Lifecycle.PRODUCTION:
            before.lifecycle = Lifecycle.ARCHIVED.value
            session.add(before)
        session.merge(LineageEdge(src=f"service:{row.service}@{row.env}", dst=f"release:{row.to_release}",
                                  kind="serves", at=row.state_since))  # fmt: skip
    elif move.state is RolloutState.ROLLED_BACK and met_traffic(session, row):
        release.lifecycle, release.rejected_reason = Lifecycle.REJECTED.value, row.message
        before = session.get(Release, row.from_release) if row.from_release else None
        if before is not None and before.lifecycle == Lifecycle.ARCHIVED:
            before.lifecycle = Lifecycle.PRODUCTION.value
            session.add(before)
    session.add(release)


def met_traffic(session: Session, row: Rollout) -> bool:
    """The rollout meant requests, or copies of them, for its release, or it was live when it was rolled back.

    A step that only waited for its replicas gave it none.
    """
    if row.policy.get("is_rollback"):
        return True
    steps = select(RolloutStep.idx).where(RolloutStep.rollout_id == row.id)
    if (
        session.exec(steps.where(or_(col(RolloutStep.started_at).is_not(None), RolloutStep.state == "passed"))).first()
        is not None
    ):
        return True
    routes = session.exec(select(Intent.payload).where(Intent.rollout_id == row.id, Intent.kind == "route"))
    meant = [fx.from_json(dict(payload)) for payload in routes]
    return any(isinstance(route, fx.Route) and route.reaches(row.to_release) for route in meant)
