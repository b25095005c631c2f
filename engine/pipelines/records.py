"""The rows of runs and stages: each function is one transaction's worth, and says who decided in the audit log."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlmodel import Session, col, select

from engine.pipelines.spec import Pipeline
from state import audit, ids
from state.digests import canonical_json
from state.models import Run, Spawn, StageRun
from state.words import ChildKind, Conflict, RunState, UsageError

ENGINE = "system:engine"
OPEN_STATES = (RunState.PENDING.value, RunState.RUNNING.value)


class RunIsOver(Exception):
    """The run was ended by somebody else; what drives it must stop."""


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What a run was started to do. Kept as written, so that a restart does not follow an edited `airboss.toml`."""

    pipeline: Pipeline
    from_stage: str | None
    force: bool
    context: Mapping[str, Any]

    def to_text(self) -> str:
        """The plan as canonical JSON. Raises UsageError when the context cannot be kept as JSON."""
        body = {
            "pipeline": self.pipeline.to_json(),
            "from_stage": self.from_stage,
            "force": self.force,
            "context": dict(self.context),
        }
        try:
            return canonical_json(body)
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"pipeline {self.pipeline.name}: its context or parameters cannot be kept: {error}"
            ) from error

    @classmethod
    def from_text(cls, text: str) -> RunPlan:
        """The plan that `to_text` wrote."""
        body = json.loads(text)
        return cls(Pipeline.from_json(body["pipeline"]), body["from_stage"], body["force"], body["context"])


@dataclass(frozen=True, slots=True)
class StageRecord:
    """One stage of a run as the store has it."""

    name: str
    state: RunState
    key: str
    attempt: int
    spawn_id: str
    started_at: float | None
    error: str


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run as the store has it."""

    id: str
    state: RunState
    created_by: str
    created_at: float
    plan: RunPlan
    stages: Mapping[str, StageRecord]


def begin(session: Session, plan: RunPlan, *, actor: str, reason: str, now: float) -> str:
    """Write a new run with its stages; returns its id."""
    run_id = ids.next_id(session, "run")
    pipeline = plan.pipeline
    session.add(
        Run(
            id=run_id,
            pipeline=pipeline.name,
            state=RunState.RUNNING,
            params=dict(pipeline.values),
            reason=reason,
            created_by=actor,
            created_at=now,
            started_at=now,
        )
    )
    session.flush()
    for position, stage in enumerate(pipeline.stages):
        session.add(StageRun(run_id=run_id, name=stage.name, position=position, state=RunState.PENDING))
    ids.put(session, _plan_key(run_id), plan.to_text())
    detail = {
        "pipeline": pipeline.name,
        "params": dict(pipeline.values),
        "from_stage": plan.from_stage,
        "force": plan.force,
    }
    audit.append(session, actor=actor, action="run.start", ref=f"run:{run_id}", reason=reason, detail=detail)
    return run_id


def load(session: Session, run_id: str) -> RunRecord:
    """The run `run_id`. Raises UsageError when there is none."""
    run = _run(session, run_id)
    rows = session.exec(select(StageRun).where(StageRun.run_id == run_id)).all()
    stages = {
        row.name: StageRecord(
            row.name, RunState(row.state), row.cache_key, row.attempt, row.spawn_id, row.started_at, row.error
        )
        for row in rows
    }
    plan = RunPlan.from_text(ids.get(session, _plan_key(run_id)))
    return RunRecord(run.id, RunState(run.state), run.created_by, run.created_at, plan, stages)


def state_of(session: Session, run_id: str) -> RunState:
    """Where the run stands. Raises UsageError when there is none."""
    return RunState(_run(session, run_id).state)


def open_runs(session: Session) -> tuple[str, ...]:
    """Ids of the runs that are not over, oldest first."""
    query = select(Run.id).where(col(Run.state).in_(OPEN_STATES)).order_by(col(Run.created_at))
    return tuple(session.exec(query).all())


def open_spawns(session: Session) -> Mapping[str, str]:
    """Stage children not known to have ended: spawn id → run id."""
    query = select(Spawn.spawn_id, Spawn.owner).where(Spawn.kind == ChildKind.STAGE, col(Spawn.ended_at).is_(None))
    return {spawn_id: owner.removeprefix("run:").partition("/")[0] for spawn_id, owner in session.exec(query)}


def reserve_release(session: Session, run_id: str) -> str:
    """The release id of this run: taken at the first call, the same at each later one."""
    key = f"run.{run_id}.release"
    reserved = ids.get(session, key)
    if not reserved:
        reserved = ids.next_id(session, running(session, run_id).pipeline)
        ids.put(session, key, reserved)
    return reserved


def last_run_of(session: Session, pipeline: str, stage: str, before: str | None) -> str | None:
    """The newest other run of `pipeline` whose `stage` got as far as a key."""
    query = (
        select(StageRun.run_id)
        .join(Run, col(Run.id) == col(StageRun.run_id))
        .where(
            Run.pipeline == pipeline,
            StageRun.name == stage,
            StageRun.cache_key != "",
            StageRun.run_id != (before or ""),
        )
        .order_by(col(Run.created_at).desc())
        .limit(1)
    )
    return session.exec(query).first()


def finish(session: Session, run_id: str, state: RunState, error: str, now: float) -> None:
    """The run is over, and with it every stage that is not."""
    run = running(session, run_id)
    run.state, run.error, run.finished_at = state, error, now
    session.add(run)
    _end_stages(session, run_id, state, error, now)
    audit.append(session, actor=ENGINE, action=f"run.{state.value}", ref=f"run:{run_id}", reason=error)


def note_resumed(session: Session, run_id: str, adopted: list[str]) -> None:
    """A restarted engine goes on with the run."""
    audit.append(session, actor=ENGINE, action="run.resume", ref=f"run:{run_id}", detail={"adopted": adopted})


def cancel(session: Session, run_id: str, actor: str, reason: str, now: float) -> tuple[str, ...]:
    """End the run by a person's word; returns the children that must be stopped. Raises Conflict when it is over."""
    run = _run(session, run_id)
    if RunState(run.state).is_over:
        raise Conflict(f"run {run_id} is over already: it {run.state.replace('_', ' ')}", code="run_is_over")
    run.state, run.error, run.finished_at = RunState.CANCELLED, f"cancelled by {actor}", now
    session.add(run)
    _end_stages(session, run_id, RunState.CANCELLED, run.error, now)
    audit.append(session, actor=actor, action="run.cancel", ref=f"run:{run_id}", reason=reason)
    return tuple(spawn_id for spawn_id, owner in open_spawns(session).items() if owner == run_id)


def retry(session: Session, run_id: str, actor: str, now: float) -> None:
    """Open a run that failed again; what it has finished stays. Raises Conflict when it runs or succeeded."""
    run = _run(session, run_id)
    if run.state in OPEN_STATES or RunState(run.state).is_good:
        raise Conflict(
            f"run {run_id} is {run.state}; only a run that failed or was cancelled can be retried",
            hint="start a new one with `airboss pipeline run`",
            code="run_not_failed",
        )
    audit.append(session, actor=actor, action="run.retry", ref=f"run:{run_id}", detail={"was": run.state})
    run.state, run.error, run.finished_at = RunState.RUNNING, "", None
    session.add(run)
    for row in session.exec(select(StageRun).where(StageRun.run_id == run_id)):
        if not RunState(row.state).is_good:
            row.state, row.error, row.finished_at, row.started_at = RunState.PENDING, "", None, None
            session.add(row)


def _end_stages(session: Session, run_id: str, state: RunState, error: str, now: float) -> None:
    for row in session.exec(select(StageRun).where(StageRun.run_id == run_id)):
        if not RunState(row.state).is_over:
            row.state, row.finished_at, row.error = state, now, error
            session.add(row)


def _plan_key(run_id: str) -> str:
    return f"run.{run_id}.plan"


def _run(session: Session, run_id: str) -> Run:
    run = session.get(Run, run_id)
    if run is None:
        raise UsageError(
            f"there is no run {run_id}", hint="`airboss run list` shows those there are", code="no_such_run"
        )
    return run


def running(session: Session, run_id: str) -> Run:
    """The run's row, to be changed. Raises RunIsOver when somebody ended it."""
    run = _run(session, run_id)
    if run.state not in OPEN_STATES:
        raise RunIsOver(run_id)
    return run
