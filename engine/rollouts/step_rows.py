"""A rollout's step rows: which one its clock stands at, and what entering a state writes there. Caller's session."""

from __future__ import annotations

from typing import Any

from sqlmodel import Session

from engine.rollouts.values import Move
from state import clock
from state.models import Rollout, RolloutStep
from state.words import RolloutState

VERIFY_STEP = "verify"


def index_of(row: Rollout) -> int:
    """Where the row's step clock is kept: verification is one step after the last."""
    standing = row.resume_state if row.state == RolloutState.PAUSED else row.state
    verifying = (RolloutState.PROMOTING, RolloutState.VERIFYING, RolloutState.COMPLETED)
    return len(row.policy["steps"]) if standing in verifying else row.step


def moment_of(step: RolloutStep | None) -> clock.Moment | None:
    """When the step began to be judged; None before."""
    if step is None or step.started_at is None:
        return None
    return clock.Moment(step.started_at, step.boot_id, step.mono_at or 0.0)


def enter(session: Session, row: Rollout, move: Move, before: int, moment: clock.Moment) -> None:
    """Write what `move`, which `row` has just made, means for the step it leaves (`before`) and the one it enters."""
    index = index_of(row)
    if index != before or move.state in (RolloutState.ROLLING_BACK, RolloutState.COMPLETED):
        old = session.get(RolloutStep, (row.id, before))
        if old is not None and old.finished_at is None:
            old.finished_at = moment.utc
            old.elapsed_s = moment.utc - (old.started_at or moment.utc)
            old.state = "failed" if move.state is RolloutState.ROLLING_BACK else "passed"
            session.add(old)
    steps = row.policy["steps"]
    begins = move.state in (RolloutState.STEP_BAKING, RolloutState.SHADOWING, RolloutState.VERIFYING)
    if move.state in (RolloutState.STEP_APPLYING, RolloutState.PROMOTING) or begins:
        step = session.get(RolloutStep, (row.id, index))
        if step is None:
            spec: dict[str, Any] = steps[index] if index < len(steps) else {"kind": VERIFY_STEP, "value": 100}
            step = RolloutStep(rollout_id=row.id, idx=index, kind=spec["kind"],
                               weight=int(spec["value"]) if spec["kind"] in ("weight", VERIFY_STEP) else 0)  # fmt: skip
            if index and not step.weight:
                earlier = session.get(RolloutStep, (row.id, index - 1))
                step.weight = earlier.weight if earlier else 0
                step.table_revision = earlier.table_revision if earlier else 0
        step.state = "baking" if begins else "applying"
        if begins:
            step.started_at, step.boot_id, step.mono_at = moment.utc, moment.boot, moment.mono
        elif move.state is RolloutState.STEP_APPLYING:
            # A step that is applied (again, when its weight was set by hand) begins its evidence anew.
            step.started_at, step.weight = (
                None,
                int(steps[index]["value"]) if steps[index]["kind"] == "weight" else step.weight,
            )
        session.add(step)


def record_revision(session: Session, rollout_id: str, table_revision: int) -> None:
    """The step that is being applied has its weight from this table revision on."""
    row = session.get(Rollout, rollout_id)
    if row is None:
        return
    step = session.get(RolloutStep, (rollout_id, index_of(row)))
    if step is not None and step.started_at is None:
        step.table_revision = table_revision
        session.add(step)
