"""Runs, releases, alerts, replicas and lineage as the console shows them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Any

from sqlalchemy import text
from sqlmodel import Session, col, select

from engine.api.schemas import GateView, LineageNode, ReleaseView, RunView, StageView
from engine.verbs import run_refusal
from state.lineage import tree
from state.lineage_live import live_at, live_from
from state.models import Release, Run, StageRun, TrackState
from state.words import RunState

RUN_VERBS = ("run.cancel", "run.retry")


def run_views(session: Session, *, limit: int = 50) -> tuple[RunView, ...]:
    """Runs, newest first."""
    rows = session.exec(select(Run).order_by(col(Run.created_at).desc()).limit(limit)).all()
    return tuple(run_view(session, row) for row in rows)


def run_view(session: Session, row: Run) -> RunView:
    """One run with its stages."""
    stages = session.exec(select(StageRun).where(StageRun.run_id == row.id).order_by(col(StageRun.position))).all()
    state = RunState(row.state)
    return RunView(
        id=row.id, pipeline=row.pipeline, state=row.state, params=_plain_params(row), release_id=row.release_id,
        error=row.error, created_by=row.created_by, created_at=row.created_at, finished_at=row.finished_at,
        stages=tuple(_stage_view(stage) for stage in stages),
        refusals={v: why for v in RUN_VERBS if (why := run_refusal(v, state))},
    )  # fmt: skip


def _plain_params(row: Run) -> dict[str, object]:
    overrides = row.params.get("overrides")
    return dict(overrides) if isinstance(overrides, dict) else {}


def _stage_view(row: StageRun) -> StageView:
    return StageView(
        name=row.name, state=row.state, started_at=row.started_at, finished_at=row.finished_at, attempt=row.attempt,
        metrics=row.metrics, progress=row.progress, gates=tuple(GateView.model_validate(gate) for gate in row.gates),
        error=row.error,
    )  # fmt: skip


def release_views(session: Session, *, limit: int = 200) -> tuple[ReleaseView, ...]:
    """Releases, newest first."""
    rows = session.exec(select(Release).order_by(col(Release.created_at).desc()).limit(limit)).all()
    return tuple(release_view(session, row) for row in rows)


def release_view(session: Session, row: Release) -> ReleaseView:
    """One release, and where it is live."""
    live = session.exec(select(TrackState).where(TrackState.release_id == row.id, TrackState.weight > 0)).all()
    return ReleaseView(
        id=row.id, service=row.service, lifecycle=row.lifecycle, model_name=row.model_name,
        model_version=row.model_version, digest=row.digest, run_id=row.run_id, dataset_id=row.dataset_id,
        prompt_id=row.prompt_id, parent_id=row.parent_id, git_commit=row.git_commit, seed=row.seed,
        training=row.training, serving=row.serving, metrics=row.metrics,
        live_in=tuple(f"{t.service}@{t.env} {t.track} {t.weight} %" for t in live),
        rejected_reason=row.rejected_reason, created_by=row.created_by, created_at=row.created_at,
    )  # fmt: skip


def lineage(
    session: Session, ref: str, *, forward: bool = False, live: bool = False, at: float | None = None
) -> LineageNode:
    """The tree below `ref`: what it was made from, or with `forward` what was made from it and where it is live.

    With `live`, the services that answer because of it alone; with `at` (Unix seconds), what a service served then.

    Raises UsageError when nothing has that name.
    """

    def rows(sql: str, *values: object) -> list[Mapping[str, Any]]:
        numbered = itertools.count()
        named = re.sub(r"\?", lambda _: f":v{next(numbered)}", sql)
        given = {f"v{at}": value for at, value in enumerate(values)}
        return [dict(row) for row in session.connection().execute(text(named), given).mappings()]

    if at is not None:
        found = live_at(rows, ref, at)
    else:
        found = live_from(rows, ref) if live else tree(rows, ref, forward=forward)
    return LineageNode.model_validate(found.to_json())
