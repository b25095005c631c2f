"""Why a rollout is not moving, read from the store: what `rollout show`, `rollout why` and the console say."""

from __future__ import annotations

import math
import time

from sqlmodel import Session

from engine.people.freezes import BUDGET, in_force
from engine.people.glass import still_frozen
from engine.rollouts import journal, records
from engine.rollouts.back.targets import ready_replicas
from engine.rollouts.why import Bar, Standing, why
from state import clock
from state.config import Config
from state.models import Rollout
from state.words import RolloutState


def why_of(session: Session, config: Config, row: Rollout, verdict: str) -> str:
    """The sentence for the rollout; `verdict` is the judge's newest word on the step it stands at."""
    seen = records.opened(session, row.id)
    if seen is None or seen.now.state.is_terminal:
        return ""
    r, now = seen.now, time.time()
    trouble = journal.trouble(session, row, now)
    step = r.steps[r.step] if r.step < len(r.steps) else None
    is_gate = r.state is RolloutState.STEP_BAKING and step is not None and step.kind == "approval"
    here = clock.now()
    step_s = clock.elapsed_s(seen.step_since, here) if seen.step_since else 0.0
    return why(
        Standing(
            id=r.id,
            state=r.state,
            message=row.message,
            from_release=r.from_release,
            to_release=r.to_release,
            pause_reason=row.pause_reason,
            resume_state=r.resume_state,
            step_kind=step.kind if step is not None else "",
            step_left_s=step.value - step_s if step is not None and step.kind == "pause" else 0.0,
            prepare_left_s=r.prepare_timeout_s
            - records.acting_s(session, row.env, row.service, here.utc, clock.elapsed_s(seen.since, here)),
            replaces=r.replaces,
            verdict=verdict,
            approvals=seen.approvals,
            approvals_needed=r.approvals_needed + (int(step.value) if is_gate and step is not None else 0),
            ready=ready_replicas(session, row.env, r.to_release),
            stable_ready=ready_replicas(session, row.env, r.from_release) if r.from_release else 0,
            replicas=r.replicas,
            trouble=trouble.says if trouble is not None else "",
            successor=r.successor,
            hold=_held(session, row, now),
            freeze=_frozen(session, config, row, now),
        )
    )


def _held(session: Session, row: Rollout, now: float) -> Bar | None:
    holds = records.leases(session, row.env, "hold", now, row.service)
    return Bar(holds[0].holder, holds[0].reason, holds[0].ends_at - now) if holds else None


def _frozen(session: Session, config: Config, row: Rollout, now: float) -> Bar | None:
    frozen = still_frozen(session, row.id, in_force(session, config, row.env, row.service, now))
    if not frozen:
        return None
    first = frozen[0]
    return Bar(first.by, first.reason, math.inf if first.kind == BUDGET else first.until - now)
