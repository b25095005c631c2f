"""The rows of one stage's attempts and of their children; each function is one transaction's worth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlmodel import Session

from engine.pipelines.outcome import Outcome
from engine.pipelines.records import ENGINE, running
from state import audit
from state.models import Spawn, StageRun
from state.words import ChildKind, RunState


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at one stage's outputs. `spawn_id` is empty when it takes no child; `why` says what made it necessary."""

    run_id: str
    stage: str
    spawn_id: str = ""
    key: str = ""
    out_dir: str = ""
    log_path: str = ""
    why: str = ""


def begin_attempt(session: Session, attempt: Attempt, now: float) -> int:
    """Write the child before it is started, so that a killed engine finds it; returns the attempt's number."""
    running(session, attempt.run_id)
    row = _stage(session, attempt.run_id, attempt.stage)
    row.state, row.attempt, row.spawn_id = RunState.RUNNING, row.attempt + 1, attempt.spawn_id
    row.cache_key, row.out_dir, row.log_path = attempt.key, attempt.out_dir, attempt.log_path
    row.started_at, row.finished_at, row.error = now, None, ""
    row.metrics, row.gates, row.progress = {}, [], _why(attempt)
    session.add(row)
    owner = f"run:{attempt.run_id}/{attempt.stage}"
    session.add(Spawn(spawn_id=attempt.spawn_id, kind=ChildKind.STAGE, owner=owner, digest=attempt.key, started_at=now))
    return row.attempt


def note_pid(session: Session, spawn_id: str, pid: int) -> None:
    """The child runs."""
    row = session.get(Spawn, spawn_id)
    if row is not None and row.ended_at is None:
        row.pid, row.state = pid, "running"
        session.add(row)


def note_progress(session: Session, run_id: str, stage: str, facts: Mapping[str, Any]) -> None:
    """What the stage said of how far it is."""
    row = _stage(session, run_id, stage)
    if row.state == RunState.RUNNING:
        row.progress = {name: row.progress[name] for name in ("why",) if name in row.progress} | dict(facts)
        session.add(row)


def end_attempt(
    session: Session, attempt: Attempt, outcome: Outcome, *, cause: str, now: float, again_in_s: float | None = None
) -> None:
    """Write how an attempt ended; with `again_in_s` the stage waits for its next one instead of being over."""
    if attempt.spawn_id:
        end_spawn(session, attempt.spawn_id, cause, now)
    running(session, attempt.run_id)
    row = _stage(session, attempt.run_id, attempt.stage)
    row.cache_key, row.out_dir, row.log_path = attempt.key, attempt.out_dir, attempt.log_path
    row.metrics, row.gates, row.error = outcome.metrics, outcome.gates, outcome.error
    row.started_at = row.started_at or now
    row.progress = dict(row.progress) if attempt.spawn_id else _why(attempt)
    ref = f"run:{attempt.run_id}"
    detail = {"stage": attempt.stage, "attempt": row.attempt, "error": outcome.error}
    if again_in_s is not None:
        row.state, row.error = RunState.PENDING, f"{outcome.error}; next try in {again_in_s:g} s"
        audit.append(session, actor=ENGINE, action="stage.retry", ref=ref, reason=outcome.error, detail=detail)
    else:
        row.state, row.finished_at = outcome.state, now
        if not outcome.state.is_good:
            detail["gates"] = [gate for gate in outcome.gates if not gate["passed"]]
            action = f"stage.{outcome.state.value}"
            audit.append(session, actor=ENGINE, action=action, ref=ref, reason=outcome.error, detail=detail)
    session.add(row)


def end_spawn(session: Session, spawn_id: str, cause: str, now: float) -> None:
    """The child has ended."""
    row = session.get(Spawn, spawn_id)
    if row is not None and row.ended_at is None:
        row.ended_at, row.end_cause, row.state, row.desired = now, cause, "ended", "stop"
        session.add(row)


def skip(session: Session, run_id: str, stage: str, why: str, now: float) -> None:
    """The stage will not run, because one it needs has no outputs."""
    running(session, run_id)
    row = _stage(session, run_id, stage)
    row.state, row.error, row.finished_at = RunState.SKIPPED, why, now
    session.add(row)


def _why(attempt: Attempt) -> dict[str, Any]:
    return {"why": attempt.why} if attempt.why else {}


def _stage(session: Session, run_id: str, stage: str) -> StageRun:
    row = session.get(StageRun, (run_id, stage))
    assert row is not None, f"{run_id} has no row for {stage}: begin() writes one a stage"
    return row
