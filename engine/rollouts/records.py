"""Rollout rows ↔ the machine's values, and the one transaction that changes a rollout's state (I2, I3).

Functions here take a session; the caller runs them inside `store.write` or `store.read`.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlmodel import Session, col, select

from engine.people.approvals import EXPIRES_AFTER_S, counted
from engine.rollouts import journal, lifecycle, step_rows
from engine.rollouts.values import Move, RolloutNow, StepSpec
from engine.rollouts.verdict import Verdict, verdict_to_json
from state import audit, clock
from state.models import Intent, Lease, Rollout, RolloutStep, TrackState, VerdictRecord
from state.words import IntentState, PauseReason, RolloutState, Strategy

ACTIVE = [s.value for s in RolloutState if not s.is_terminal]
ENGINE = "system:engine"
SUCCESSOR = "successor"
"""Kind of the intent that keeps what is rolled out once a rollout has been given up for it."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A rollout as read: its machine value, its frozen policy, its clocks, its present step's clock and table revision."""

    now: RolloutNow
    service: str
    env: str
    target: str
    revision: int
    policy: Mapping[str, Any]
    since: clock.Moment
    step_since: clock.Moment | None
    table_revision: int
    approvals: int
    rejections: int
    last_verdict: tuple[str, str] | None


def active_ids(session: Session) -> list[str]:
    """Rollouts that are not over, oldest first."""
    query = select(Rollout.id).where(col(Rollout.state).in_(ACTIVE)).order_by(col(Rollout.created_at))
    return list(session.exec(query))


def opened(session: Session, rollout_id: str) -> Opened | None:
    """The rollout `rollout_id`, None when there is none."""
    row = session.get(Rollout, rollout_id)
    if row is None:
        return None
    step = session.get(RolloutStep, (row.id, step_rows.index_of(row)))
    stable = session.get(TrackState, (row.service, row.env, row.target, "stable"))
    approvals, rejections = counted(session, row)
    verdict = session.exec(
        select(VerdictRecord).where(VerdictRecord.rollout_id == row.id).order_by(col(VerdictRecord.id).desc())
    ).first()
    policy, waits = row.policy, successor(session, row.id)
    return Opened(
        now=RolloutNow(
            id=row.id,
            state=RolloutState(row.state),
            step=row.step,
            steps=steps_of(policy),
            from_release=row.from_release,
            to_release=row.to_release,
            resume_state=RolloutState(row.resume_state) if row.resume_state else None,
            pause_reason=row.pause_reason,
            approvals_needed=int(policy["approvals"]),
            auto_promote=bool(policy["auto_promote"]),
            replicas=int(policy["replicas"]),
            prepare_timeout_s=float(policy["prepare_timeout"]),
            successor=waits.release_id,
            was_going_back=waits.came_late,
            met_traffic=row.state != RolloutState.ROLLING_BACK or lifecycle.met_traffic(session, row),
            approval_timeout_s=float(policy.get("approval_timeout", EXPIRES_AFTER_S)),
            was_promoted=stable is not None and stable.release_id == row.to_release,
            strategy=Strategy(row.strategy),
            surge=int(policy.get("surge", 1)),
            unavailable=int(policy.get("unavailable", 0)),
            has_baseline=bool(policy.get("baseline")),
            affinity=str(policy.get("affinity", "")),
        ),
        service=row.service,
        env=row.env,
        target=row.target,
        revision=row.revision,
        policy=policy,
        since=clock.Moment(row.state_since, row.state_boot, row.state_mono),
        step_since=step_rows.moment_of(step),
        table_revision=step.table_revision if step else 0,
        approvals=approvals,
        rejections=rejections,
        last_verdict=(verdict.kind, verdict.sentence) if verdict and verdict.step == step_rows.index_of(row) else None,
    )


def successor_key(rollout_id: str) -> str:
    """The key of the intent that keeps what is rolled out after `rollout_id`."""
    return f"{rollout_id}/{SUCCESSOR}"


@dataclass(frozen=True, slots=True)
class Successor:
    """The release that waits for a rollout to end; "" when none does. `came_late`: it was going back already."""

    release_id: str = ""
    came_late: bool = False


def successor(session: Session, rollout_id: str) -> Successor:
    """What waits for the rollout to end."""
    query = select(Intent).where(Intent.key == successor_key(rollout_id), Intent.state == IntentState.PENDING)
    row = session.exec(query).first()
    if row is None:
        return Successor()
    return Successor(str(row.payload["release"]), bool(row.payload.get("came_late")))


def known_splits(session: Session, seen: Opened) -> tuple[dict[str, int], ...]:
    """Every split of the traffic that is the rollout's own, oldest first: those that were adopted, and those it asked for."""
    r = seen.now
    steps = session.exec(select(RolloutStep.weight).where(RolloutStep.rollout_id == r.id))
    played = [{r.to_release: w, **({r.from_release: 100 - w} if r.from_release else {})} for w in steps]
    return (*played, *journal.splits(session, r.id))


def steps_of(policy: Mapping[str, Any]) -> tuple[StepSpec, ...]:
    """The steps of a frozen policy."""
    return tuple(StepSpec(**{**step, "value": float(step["value"])}) for step in policy["steps"])


def commit_move(session: Session, seen: Opened, move: Move, *, actor: str = ENGINE, reason: str = "") -> bool:
    """Write state, intents and audit together. Returns whether the row was still the one seen, and its PASS not used yet."""
    row = session.get(Rollout, seen.now.id)
    if row is None or row.revision != seen.revision:
        return False
    if move.consumes_verdict and _is_consumed(session, row):
        return False
    changes = (move.state, move.step) != (RolloutState(row.state), row.step) or move.restarts_step
    if changes:
        _enter(session, row, move, actor, reason)
    else:
        journal.supersede(session, row.id, but=[effect.slug for effect in move.effects])
    for effect in move.effects:
        journal.intend(session, row, effect)
    return True


def _enter(session: Session, row: Rollout, move: Move, actor: str, reason: str) -> None:
    moment, left = clock.now(), row.state
    before = step_rows.index_of(row)
    why = f"; before that: {row.message}" if move.state is RolloutState.ROLLED_BACK and row.message else ""
    row.state, row.step, row.message = move.state.value, move.step, move.message + why
    if move.skips_gates:
        steps = row.policy["steps"]
        hurried = [{**step, "settle_s": 0.0} for step in steps[move.step :]]
        row.policy = {**row.policy, "steps": [*steps[: move.step], *hurried], "auto_promote": True}
    row.pause_reason = move.pause_reason
    row.resume_state = move.resume_state.value if move.resume_state else ""
    row.revision += 1
    row.state_since, row.state_boot, row.state_mono = moment.utc, moment.boot, moment.mono
    journal.supersede(session, row.id)
    if move.state.is_terminal:
        row.finished_at = moment.utc
    if move.state is RolloutState.COMPLETED:
        row.warm_until = moment.utc + float(row.policy["warm_hold"])
    session.add(row)
    session.flush()
    step_rows.enter(session, row, move, before, moment)
    lifecycle.follow(session, row, move)
    if move.consumes_verdict:
        _consume(session, row.id, before)
    audit.append(
        session,
        actor=actor,
        action=f"rollout.{move.state.value}",
        ref=f"rollout:{row.id}",
        reason=reason,
        detail={"from": left, "to": move.state.value, "step": move.step, "message": move.message,
                "pause_reason": move.pause_reason, "revision": row.revision},
    )  # fmt: skip


def set_weight(session: Session, seen: Opened, weight: int, *, actor: str, reason: str) -> bool:
    """Give the step that is being judged another weight, by hand; its evidence begins anew, later steps still rise.

    Returns whether the row was still the one seen.
    """
    row = session.get(Rollout, seen.now.id)
    if row is None or row.revision != seen.revision:
        return False
    steps = row.policy["steps"]
    later = [s for s in steps[row.step + 1 :] if s["kind"] != "weight" or s["value"] > weight]
    if not any(s["kind"] == "weight" for s in later):
        later = [*later, {"kind": "weight", "value": 100.0}]
    row.policy = {**row.policy, "steps": [*steps[: row.step], {"kind": "weight", "value": float(weight)}, *later]}
    session.add(row)
    move = Move(RolloutState.STEP_APPLYING, row.step, (), f"weight {weight} % set by {actor}", restarts_step=True)
    return commit_move(session, seen, move, actor=actor, reason=reason)


def _consume(session: Session, rollout_id: str, step: int) -> None:
    # I12: a PASS is used once, by the step that earned it.
    newest = _newest_verdict(session, rollout_id, step)
    if newest is not None:
        newest.consumed = True
        session.add(newest)


def _is_consumed(session: Session, row: Rollout) -> bool:
    newest = _newest_verdict(session, row.id, step_rows.index_of(row))
    return newest is not None and newest.consumed


def _newest_verdict(session: Session, rollout_id: str, step: int) -> VerdictRecord | None:
    query = select(VerdictRecord).where(VerdictRecord.rollout_id == rollout_id, VerdictRecord.step == step)
    return session.exec(query.order_by(col(VerdictRecord.id).desc())).first()


def track_weights(session: Session, seen: Opened) -> dict[str, int]:
    """release → percent that the tracks of the rollout's service say, those with none left out."""
    query = select(TrackState).where(TrackState.service == seen.service, TrackState.env == seen.env)
    weights: dict[str, int] = {}
    for row in session.exec(query.where(TrackState.target == seen.target, TrackState.weight > 0)):
        weights[row.release_id] = weights.get(row.release_id, 0) + row.weight
    return weights


def close_routes(session: Session, rollout_id: str, intents: Collection[int], table_revision: int) -> None:
    """Every worker has acknowledged the table that `intents` meant."""
    step_rows.record_revision(session, rollout_id, table_revision)
    for intent_id in intents:
        journal.close_intent(session, intent_id, {"table_revision": table_revision}, done=True)


def record_verdict(session: Session, seen: Opened, verdict: Verdict) -> None:
    """Keep the judge's word when it is another than before (kind, or the deciding sentence of a final one)."""
    row = session.get(Rollout, seen.now.id)
    if row is None:
        return
    index = step_rows.index_of(row)
    newest = _newest_verdict(session, row.id, index)
    if newest is not None and newest.kind == verdict.kind.value and not newest.consumed:
        newest.at, newest.sentence, newest.detail = time.time(), verdict.sentence, verdict_to_json(verdict)
        session.add(newest)
        return
    session.add(VerdictRecord(rollout_id=row.id, step=index, at=time.time(), kind=verdict.kind.value,
                              sentence=verdict.sentence, detail=verdict_to_json(verdict)))  # fmt: skip


def pause_restored(session: Session) -> list[str]:
    """After a restore: every rollout that moves stands still until a person looks. Returns their ids."""
    paused = []
    for rollout_id in active_ids(session):
        seen = opened(session, rollout_id)
        if seen is not None and seen.now.state not in (RolloutState.PAUSED, RolloutState.ROLLING_BACK):
            move = Move(RolloutState.PAUSED, seen.now.step, (), "the store was restored from a backup",
                        PauseReason.RESTORED.value, seen.now.state)  # fmt: skip
            commit_move(session, seen, move)
            paused.append(rollout_id)
    audit.append(session, actor=ENGINE, action="state.restored", ref="engine:engine", detail={"paused": paused})
    return paused


def leases(session: Session, env: str, kind: str, at: float, service: str = "") -> list[Lease]:
    """Holds or freezes of an environment, or of the service in it, that have not expired; the latest end first."""
    query = select(Lease).where(Lease.kind == kind, Lease.ends_at > at, Lease.starts_at <= at)
    names = _lease_names(env, kind, service)
    return sorted((lease for lease in session.exec(query) if lease.name in names), key=lambda one: -one.ends_at)


def acting_s(session: Session, env: str, service: str, at: float, state_s: float) -> float:
    """Of the `state_s` seconds in a state, those since the last hold ended: a deadline that ran under one is no deadline."""
    holds = select(Lease.name, Lease.ends_at).where(Lease.kind == "hold", Lease.ends_at <= at)
    names = _lease_names(env, "hold", service)
    return min([state_s, *(at - ends_at for name, ends_at in session.exec(holds) if name in names)])


def _lease_names(env: str, kind: str, service: str) -> set[str]:
    return {f"{kind}/{env}", f"{kind}/*", *((f"{kind}/{env}/{service}",) if service else ())}
