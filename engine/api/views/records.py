"""Runs, releases, alerts, replicas and lineage as the console shows them."""

from __future__ import annotations

from collections.abc import Callable

from sqlmodel import Session, col, select

from engine.api.schemas import GateView, LineageNode, ReleaseView, RunView, StageView
from engine.verbs import run_refusal
from state.models import Dataset, LineageEdge, Release, Rollout, Run, StageRun, TrackState
from state.words import RunState, UsageError

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


def canonical_ref(session: Session, ref: str) -> str:
    """`kind:id` of what a person wrote: `chat`, `charlm-2`, `run-3`, `release/charlm-2`, a dataset's or bundle's digest.

    Raises UsageError when nothing has that name.
    """
    kind, _, name = ref.replace("/", ":", 1).partition(":")
    if name:
        return f"{kind}:{name}"
    lookups: tuple[tuple[str, Callable[[], object]], ...] = (
        ("release", lambda: session.get(Release, ref)),
        ("run", lambda: session.get(Run, ref)),
        ("rollout", lambda: session.get(Rollout, ref)),
        ("dataset", lambda: session.get(Dataset, ref)),
    )
    for found_kind, look in lookups:
        if look() is not None:
            return f"{found_kind}:{ref}"
    if session.exec(select(TrackState).where(TrackState.service == ref)).first() is not None:
        return f"service:{ref}"
    if len(ref) >= 8 and (data := session.exec(select(Dataset).where(col(Dataset.sha256).startswith(ref))).first()):
        return f"dataset:{data.id}"
    raise UsageError(
        f"nothing is called {ref!r}",
        hint="a service, release, run, rollout or data snapshot; `airboss release list` shows some",
        code="no_ref",
    )


def lineage(session: Session, ref: str, *, forward: bool, depth: int = 12) -> LineageNode:
    """The tree below `ref`: what it was made from, or with `forward` what was made from it and where it is live."""
    return _node(session, canonical_ref(session, ref), "", forward, depth, frozenset())


def _node(session: Session, ref: str, edge: str, forward: bool, depth: int, above: frozenset[str]) -> LineageNode:
    kind, _, name = ref.partition(":")
    children: tuple[LineageNode, ...] = ()
    if depth and ref not in above:
        children = tuple(
            _node(session, other, how, forward, depth - 1, above | {ref}) for other, how in _next(session, ref, forward)
        )
    return LineageNode(ref=ref, kind=kind, label=_label(session, kind, name), edge=edge, children=children)


def _next(session: Session, ref: str, forward: bool) -> list[tuple[str, str]]:
    kind, _, name = ref.partition(":")
    if forward:
        edges = session.exec(select(LineageEdge).where(LineageEdge.dst == ref).order_by(LineageEdge.src)).all()
        found = [(e.src, e.kind) for e in edges if e.kind != "serves"]
    else:
        edges = session.exec(select(LineageEdge).where(LineageEdge.src == ref).order_by(LineageEdge.dst)).all()
        found = [(e.dst, e.kind) for e in edges]
    if kind == "service" and not forward:
        # What a service is made of is what is live now, not everything that ever was.
        service, _, env = name.partition("@")
        query = select(TrackState).where(TrackState.service == service, TrackState.weight > 0)
        rows = session.exec(query.where(TrackState.env == env) if env else query).all()
        found = [(f"release:{t.release_id}", f"{t.track} {t.weight} % in {t.env}") for t in rows]
    if kind == "release" and forward:
        rows = session.exec(select(TrackState).where(TrackState.release_id == name, TrackState.weight > 0)).all()
        found += [(f"service:{t.service}@{t.env}", f"{t.track} {t.weight} %") for t in rows]
    return found


def _label(session: Session, kind: str, name: str) -> str:
    if kind == "release" and (release := session.get(Release, name)):
        model = f"{release.model_name} v{release.model_version}" if release.model_version else release.model_name
        return f"{name} · {model} · {release.lifecycle} · sha256 {release.digest[:12]}"
    if kind == "run" and (run := session.get(Run, name)):
        return f"{name} · {run.pipeline} · {run.state} · by {run.created_by}"
    if kind == "dataset" and (data := session.get(Dataset, name)):
        return f"{data.name} · {data.chars} chars in {data.rows} rows · sha256 {data.sha256[:12]}"
    return name
