"""What the store knows of a way back: tracks, replicas, measured starts and switches, and how the two releases differ."""

from __future__ import annotations

from statistics import median
from typing import Any

from sqlmodel import Session, col, select

from engine.api.schemas import PlanLine, PlanView
from engine.rollouts.back.targets import gone_before, ready_replicas
from engine.rollouts.back.way import Way, plan_back
from engine.rollouts.clusters import is_cluster, start_there
from engine.rollouts.compatibility import compare
from engine.rollouts.traits import traits_of
from engine.rollouts.wanted import wanted_replicas
from state.config import Config
from state.models import Intent, Rollout, Spawn, TrackState
from state.words import IntentState, Track

WARM_SWITCH_S = 1.0
COLD_START_GUESS_S = 15.0


def rollback_plan(session: Session, config: Config, service: str, env: str, target: str) -> PlanView:
    """What a rollback to `target` will change, in order, how long it takes and what is shed."""
    plan = plan_back(read_way(session, config, service, env, target))
    return PlanView(
        verb="rollback",
        ref=f"service/{service}",
        lines=tuple(PlanLine(object=s.object, field=s.field, before=s.before, after=s.after) for s in plan.steps),
        warnings=plan.notes,
        expected_s=plan.expected_s,
        warmth=plan.warmth.value,
        sheds=plan.sheds,
    )


def read_way(session: Session, config: Config, service: str, env: str, target: str) -> Way:
    """Everything that the plan of a rollback to `target` is made of."""
    tracks = session.exec(
        select(TrackState)
        .where(TrackState.service == service, TrackState.env == env)
        .order_by(col(TrackState.track).desc())
    ).all()
    live: dict[str, int] = {}
    for row in tracks:
        # A baseline is fresh copies of the stable release: one release, two tracks.
        live[row.release_id] = live.get(row.release_id, 0) + row.weight
    leaves = _leaves(session, service, env, target, tracks)
    start_s = measured_start_s(session, service, env, target)
    return Way(
        service=service,
        env=env,
        target=target,
        leaves=leaves,
        live=live,
        ready=ready_replicas(session, env, target),
        wanted=wanted_replicas(session, config, service, env),
        leaving=ready_replicas(session, env, leaves) if leaves else 0,
        start_s=COLD_START_GUESS_S if start_s is None else start_s,
        switch_s=_switch_s(session, service, env),
        is_measured=start_s is not None,
        changes=compare(
            traits_of(session, config, service, env, leaves), traits_of(session, config, service, env, target)
        )
        if leaves
        else (),
        is_promoted=any(row.track == Track.STABLE and row.release_id == leaves for row in tracks),
        passed_over=tuple(gone_before(session, service, env, target)),
    )


def _leaves(session: Session, service: str, env: str, target: str, tracks: Any) -> str:
    """The release that is given up: the rollout's, while one is active, else what is live."""
    active = session.exec(
        select(Rollout)
        .where(Rollout.service == service, Rollout.env == env, Rollout.from_release == target)
        .order_by(col(Rollout.created_at).desc())
    ).first()
    others = [row.release_id for row in tracks if row.release_id != target]
    stable = [row.release_id for row in tracks if row.track == Track.STABLE and row.release_id != target]
    if active is not None and active.to_release in others:
        return active.to_release
    return next(iter([*stable, *others]), active.to_release if active is not None else "")


def measured_start_s(session: Session, service: str, env: str, target: str) -> float | None:
    """The slowest of the last five starts of the release here, or else of its service; None when none was measured."""
    if is_cluster(session, env):
        return start_there(session, env, target)
    ready = select(Spawn).where(Spawn.service == service, Spawn.kind == "model", col(Spawn.ready_at).is_not(None))
    newest = ready.order_by(col(Spawn.started_at).desc()).limit(5)
    own = session.exec(newest.where(Spawn.release_id == target, Spawn.env == env)).all()
    took = [row.ready_at - row.started_at for row in own or session.exec(newest).all() if row.ready_at]
    return max(took, default=None)


def _switch_s(session: Session, service: str, env: str) -> float:
    """How long the last switches of all traffic took here, from the intent to every worker's word."""
    made = (
        select(Intent)
        .join(Rollout, col(Rollout.id) == col(Intent.rollout_id))
        .where(
            Rollout.service == service, Rollout.env == env, Intent.kind == "route", Intent.attempts == 1,
            Intent.state == IntentState.DONE,
        )
        .order_by(col(Intent.id).desc())
        .limit(9)
    )  # fmt: skip
    took = [row.done_at - row.created_at for row in session.exec(made) if row.done_at]
    return median(took) if took else WARM_SWITCH_S
