"""Superseding: a newer release takes the place of a rollout that is under way, always through stable.

What waits is an intent in the journal: `RO/successor`. The rollout goes back first; once it has ended (superseded, or rolled
back where it was on its way back already), the waiting one begins. So there are never three releases in one split, and an engine killed in between goes on where it was.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sqlmodel import Session, col, select

from engine.api.schemas import PlanLine, PlanView
from engine.rollouts import planning, records
from engine.rollouts.back.reading import rollback_plan
from engine.rollouts.moves import roll_back
from engine.rollouts.values import Move
from state import audit
from state.config import Config
from state.models import Intent, Rollout
from state.words import TERMINAL_STATES, AirbossError, Conflict, IntentState, RolloutState

log = logging.getLogger("airboss.rollouts")
KIND = records.SUCCESSOR
_NOT_BEGUN = (RolloutState.PLANNED, RolloutState.AWAITING_APPROVAL)


def supersede(
    session: Session, rollout_id: str, wish: planning.Wish, policy: Mapping[str, Any], *, actor: str, reason: str
) -> str:
    """Give the active rollout up for `wish`. Returns the new rollout's id, or "" when it begins once traffic is back.

    Raises Conflict when the rollout has ended, or has no stable release to go back to.
    """
    seen = records.opened(session, rollout_id)
    if seen is None or seen.now.state.is_terminal:
        raise Conflict(f"{rollout_id} has ended", hint="look again, then decide", code="revision_moved")
    r, said = seen.now, f"superseded by {wish.release_id}, rolled out by {actor}"
    if r.state in _NOT_BEGUN:
        records.commit_move(session, seen, Move(RolloutState.SUPERSEDED, r.step, (), said), actor=actor, reason=reason)
        return planning.create_rollout(session, wish, r.from_release, policy, actor=actor, reason=reason)
    if r.from_release is None and r.was_promoted:
        raise Conflict(
            f"{r.id} is the first release of its service: there is no stable to go back to",
            hint="let it end, then deploy",
            code="no_earlier_release",
        )
    _wait(session, seen, wish, policy, actor, reason)
    if r.state is not RolloutState.ROLLING_BACK:
        records.commit_move(session, seen, roll_back(r, said), actor=actor, reason=reason)
    return ""


def _wait(
    session: Session, seen: records.Opened, wish: planning.Wish, policy: Mapping[str, Any], actor: str, reason: str
) -> None:
    rollout_id, key = seen.now.id, records.successor_key(seen.now.id)
    row = session.exec(select(Intent).where(Intent.key == key)).first() or Intent(
        key=key, rollout_id=rollout_id, kind=KIND, state=IntentState.PENDING, created_at=time.time()
    )
    # What goes back for a reason of its own ends by that, whoever waits; a second successor changes nothing about it.
    came_late = seen.now.was_going_back if seen.now.successor else seen.now.state is RolloutState.ROLLING_BACK
    row.payload = {
        "wish": asdict(wish), "policy": dict(policy), "actor": actor, "reason": reason, "release": wish.release_id,
        "came_late": came_late,
    }  # fmt: skip
    session.add(row)
    audit.append(session, actor=actor, action="rollout.supersede", ref=f"rollout:{rollout_id}", reason=reason,
                 detail={"release": wish.release_id})  # fmt: skip
    session.flush()


def after_superseding(session: Session, config: Config, active: Rollout, plan: PlanView) -> PlanView:
    """The deployment's plan with, before it, what becomes of the rollout that it takes the place of."""
    lines = [PlanLine(object=active.id, field=active.to_release, before=active.state, after="superseded")]
    notes = [
        f"{active.id} ({active.to_release}, begun by {active.created_by}) is given up: --supersede {active.id} says so"
    ]
    back = active.from_release
    if active.state not in _NOT_BEGUN and back is not None:
        way = rollback_plan(session, config, active.service, active.env, back)
        lines += [line for line in way.lines if line.object.endswith(("traffic", "replicas"))]
        notes += [f"{plan.lines[0].field} begins once all traffic is on {back} again; there is never a split of three"]
        notes += way.warnings
    return plan.model_copy(
        update={"lines": (*lines, *plan.lines), "warnings": (*notes, *plan.warnings), "expected_s": None}
    )


def start_waiting(session: Session, config: Config) -> list[str]:
    """Begin what waited for a rollout that has ended. Returns the new rollouts' ids.

    One that may not begin any more (a freeze began, its release was rejected) is refused in the audit log, by name.
    """
    started = []
    waiting = (
        select(Intent)
        .join(Rollout, col(Rollout.id) == col(Intent.rollout_id))
        .where(Intent.kind == KIND, Intent.state == IntentState.PENDING, col(Rollout.state).in_(TERMINAL_STATES))
    )
    for intent in session.exec(waiting).all():
        kept = intent.payload
        wish = planning.Wish(
            **{
                **kept["wish"],
                "steps": tuple(kept["wish"]["steps"]),
                "supersedes": "",
                "past": tuple(kept["wish"].get("past", ())),
            }
        )
        try:
            stable = planning.check_deploy(session, config, wish)
            rollout_id = planning.create_rollout(
                session, wish, stable, kept["policy"], actor=kept["actor"], reason=kept["reason"]
            )
        except AirbossError as error:
            intent.state, intent.outcome = IntentState.FAILED, {"error": str(error)}
            audit.append(session, actor=records.ENGINE, action="rollout.successor_refused",
                         ref=f"rollout:{intent.rollout_id}", reason=str(error),
                         detail={"release": wish.release_id})  # fmt: skip
            log.warning("%s waited for %s and may not begin: %s", wish.release_id, intent.rollout_id, error)
        else:
            intent.state, intent.done_at, intent.outcome = IntentState.DONE, time.time(), {"rollout": rollout_id}
            started.append(rollout_id)
        session.add(intent)
    return started


def successor_of(session: Session, rollout_id: str) -> str | None:
    """The rollout that began when `rollout_id` had gone back; None while it waits. Raises Conflict when it was refused."""
    row = session.exec(select(Intent).where(Intent.key == records.successor_key(rollout_id))).first()
    if row is not None and row.state == IntentState.FAILED:
        raise Conflict(
            f"{rollout_id} was given up, but {row.payload['release']} may not begin: {row.outcome['error']}",
            hint="put that right, then deploy again",
            code="successor_refused",
        )
    found = row.outcome.get("rollout") if row is not None else None
    return str(found) if found else None
