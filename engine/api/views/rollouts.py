"""Rollouts and events as the console shows them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from sqlmodel import Session, col, select

from engine.api.schemas import (
    ArmView,
    CheckView,
    EventView,
    PlanLine,
    PlanView,
    RolloutView,
    StepView,
    VerdictView,
)
from engine.api.views.people import gate_view, glass_views
from engine.api.views.standing import why_of
from engine.rollouts import step_rows
from engine.rollouts.back.reading import rollback_plan
from engine.rollouts.back.targets import way_back
from engine.rollouts.deploy_plan import describe_step
from engine.rollouts.previews import preview_of
from engine.rollouts.verdict import MetricCheck, Verdict, verdict_from_json
from engine.verbs import ROLLOUT_VERBS, rollout_refusal
from state.config import Config
from state.models import Audit, Rollout, RolloutStep, VerdictRecord
from state.words import RolloutState, Strategy


def events(
    session: Session, *, ref: str = "", after: int = 0, before: int = 0, limit: int = 200, newest: bool = False
) -> tuple[EventView, ...]:
    """Audit rows; of `ref` only when given, after row `after`, oldest first (the newest ones, before `before`, with `newest`)."""
    query = select(Audit).where(col(Audit.id) > after)
    if before:
        query = query.where(col(Audit.id) < before)
    if ref:
        query = query.where(Audit.ref == ref)
    rows = session.exec(query.order_by(col(Audit.id).desc() if newest else col(Audit.id)).limit(limit)).all()
    return tuple(
        EventView(id=r.id or 0, at=r.at, actor=r.actor, action=r.action, ref=r.ref, reason=r.reason, detail=r.detail)
        for r in sorted(rows, key=lambda r: r.id or 0)
    )


Live = Callable[[str, str], Mapping[str, float | None]]
"""(service, env) → release → p95 of the last minute in ms."""


def nothing_live(service: str, env: str) -> Mapping[str, float | None]:
    """For readers who have no live counts."""
    return {}


def rollout_views(
    session: Session, config: Config, *, live: Live = nothing_live, service: str = "", env: str = "", limit: int = 50
) -> tuple[RolloutView, ...]:
    """Rollouts, newest first, without plans and events."""
    query = select(Rollout)
    if service:
        query = query.where(Rollout.service == service)
    if env:
        query = query.where(Rollout.env == env)
    rows = session.exec(query.order_by(col(Rollout.created_at).desc()).limit(limit)).all()
    return tuple(rollout_view(session, config, row, live=live) for row in rows)


def rollout_view(
    session: Session, config: Config, row: Rollout, *, live: Live = nothing_live, whole: bool = False
) -> RolloutView:
    """One rollout; `whole` adds what `p` and `b` would do, and its events."""
    state = RolloutState(row.state)
    rows = _newest_verdicts(session, row.id)
    verdicts = {step: _verdict_view(record) for step, record in rows.items()}
    index = step_rows.index_of(row)
    shown = index if index in verdicts else max(verdicts, default=None)
    judged = verdict_from_json(rows[shown].detail) if shown is not None else None
    stable, canary = _arms(row, judged, live)
    steps = row.policy["steps"]
    kind = steps[row.step]["kind"] if row.step < len(steps) else ""
    refusals = {v: why for v in ROLLOUT_VERBS if (why := rollout_refusal(v, state, kind, row.strategy))}
    env = config.environment.get(row.env)
    return RolloutView(
        id=row.id, service=row.service, env=row.env, protected=env.protected if env else True, strategy=row.strategy,
        from_release=row.from_release, to_release=row.to_release, state=row.state, step=row.step, revision=row.revision,
        pause_reason=row.pause_reason, message=row.message, reason=row.reason, weight=_weight(row),
        measured_pct=_percent(judged), created_by=row.created_by, created_at=row.created_at,
        state_since=row.state_since, finished_at=row.finished_at, warm_until=row.warm_until,
        registry_sync=row.registry_sync, steps=_steps(session, row, verdicts),
        preview=_preview(config, row), stable=stable, canary=canary,
        verdict=verdicts.get(shown) if shown is not None else None, refusals=refusals,
        gate=gate_view(session, row) if whole else None, glass=glass_views(session, row.id) if whole else (),
        why=why_of(session, config, row, verdicts[index].sentence if index in verdicts else ""),
        promote_plan=_promote_plan(row, refusals) if whole else None,
        rollback_plan=_rollback_plan(session, config, row, refusals) if whole else None,
        events=events(session, ref=f"rollout:{row.id}") if whole else (),
    )  # fmt: skip


def _newest_verdicts(session: Session, rollout_id: str) -> dict[int, VerdictRecord]:
    query = select(VerdictRecord).where(VerdictRecord.rollout_id == rollout_id).order_by(col(VerdictRecord.id))
    return {row.step: row for row in session.exec(query)}


def _verdict_view(row: VerdictRecord) -> VerdictView:
    verdict = verdict_from_json(row.detail)
    return VerdictView(
        at=row.at,
        step=row.step,
        kind=row.kind,
        sentence=row.sentence,
        cause=verdict.cause.value if verdict.cause else "",
        guard=verdict.guard,
        checks=tuple(_check_view(c) for c in verdict.checks),
        needs_requests=verdict.needs_requests,
        needs_s=verdict.needs_s,
    )


def _check_view(check: MetricCheck) -> CheckView:
    return CheckView(
        metric=check.metric,
        kind=check.kind.value,
        route=check.route,
        stable_rate=check.stable_rate,
        canary_rate=check.canary_rate,
        interval=check.interval,
        upper_bound=check.upper_bound,
        limit=check.limit,
        e_harm=check.e_harm or 0.0,
        e_pass=max(check.e_noninferior or 0.0, check.e_below_slo or 0.0),
        threshold=check.threshold,
    )


def _arms(row: Rollout, verdict: Verdict | None, live: Live) -> tuple[ArmView | None, ArmView | None]:
    """Both sides as the newest verdict counted them; p95 is of the last minute, while the rollout moves."""
    if verdict is None or not verdict.checks:
        return None, None
    tallies = {check.metric: check for check in verdict.checks}
    first = verdict.checks[0]
    errors, slow = tallies.get("errors", first), tallies.get("slow", first)
    p95 = live(row.service, row.env) if not RolloutState(row.state).is_terminal else {}
    canary = ArmView(
        release_id=row.to_release, requests=int(errors.canary.requests), errors=int(errors.canary.bad),
        slow=int(slow.canary.bad), p95_ms=p95.get(row.to_release),
    )  # fmt: skip
    if row.from_release is None or not errors.stable.requests:
        return None, canary
    stable = ArmView(
        release_id=row.from_release, requests=int(errors.stable.requests), errors=int(errors.stable.bad),
        slow=int(slow.stable.bad), p95_ms=p95.get(row.from_release),
    )  # fmt: skip
    return stable, canary


def _preview(config: Config, row: Rollout) -> str:
    """The header, or the Service, that leads to the new release, while it gets no traffic."""
    begun = RolloutState(row.resume_state or row.state) in (
        RolloutState.STEP_APPLYING,
        RolloutState.STEP_BAKING,
        RolloutState.SHADOWING,
    )
    shows = row.strategy == Strategy.BLUE_GREEN and begun and row.from_release is not None and _weight(row) < 100
    return preview_of(config, row.service, row.env, row.to_release).by if shows else ""


def _percent(verdict: Verdict | None) -> float | None:
    return None if verdict is None or verdict.measured_split is None else round(verdict.measured_split * 100, 2)


def _weight(row: Rollout) -> int:
    """The share that the newer release should have now, in percent."""
    standing = RolloutState(row.resume_state or row.state)
    if standing in (RolloutState.PROMOTING, RolloutState.VERIFYING, RolloutState.COMPLETED):
        return 100
    if standing not in (RolloutState.STEP_APPLYING, RolloutState.STEP_BAKING, RolloutState.AWAITING_PROMOTION):
        return 0
    reached = [s for s in row.policy["steps"][: row.step + 1] if s["kind"] == "weight"]
    return int(reached[-1]["value"]) if reached else 0


def _steps(session: Session, row: Rollout, verdicts: Mapping[int, VerdictView]) -> tuple[StepView, ...]:
    played = {s.idx: s for s in session.exec(select(RolloutStep).where(RolloutStep.rollout_id == row.id))}
    found = []
    for idx, spec in enumerate(row.policy["steps"]):
        step = played.get(idx)
        found.append(_step_view(idx, spec["kind"], int(spec["value"]), step, verdicts.get(idx), describe_step(spec)))
    verify = played.get(len(row.policy["steps"]))
    if verify is not None:
        found.append(_step_view(verify.idx, verify.kind, verify.weight, verify, verdicts.get(verify.idx)))
    return tuple(found)


def _step_view(
    idx: int, kind: str, value: int, step: RolloutStep | None, verdict: VerdictView | None, says: str = ""
) -> StepView:
    running = step is not None and step.started_at is not None and step.finished_at is None
    elapsed = (
        (time.time() - (step.started_at or 0.0)) if step is not None and running else (step.elapsed_s if step else 0.0)
    )
    return StepView(
        idx=idx,
        kind=kind,
        weight=value if kind in ("weight", step_rows.VERIFY_STEP) else 0,
        state=step.state if step else "pending",
        started_at=step.started_at if step else None,
        elapsed_s=max(elapsed, 0.0),
        verdict=verdict,
        says=says,
    )


def _promote_plan(row: Rollout, refusals: Mapping[str, str]) -> PlanView | None:
    if "rollout.promote" in refusals:
        return None
    steps = row.policy["steps"]
    after = "all traffic, then the registry's champion"
    if row.step + 1 < len(steps) and row.state != RolloutState.AWAITING_PROMOTION:
        following = steps[row.step + 1]
        after = (
            f"{describe_step(following)} to {row.to_release}"
            if following["kind"] == "weight"
            else f"{following['kind']}: {describe_step(following)}"
        )
    line = PlanLine(object=f"{row.env} traffic", field=row.to_release, before=f"{_weight(row)} %", after=after)
    return PlanView(
        verb="rollout.promote", ref=f"rollout/{row.id}", lines=(line,),
        warnings=("this step's verdict is not waited for",),
    )  # fmt: skip


def _rollback_plan(session: Session, config: Config, row: Rollout, refusals: Mapping[str, str]) -> PlanView | None:
    if "rollback" in refusals:
        return None
    target = row.from_release
    if row.state == RolloutState.COMPLETED:
        target = way_back(session, row.service, row.env)
    if target is None or row.service not in config.service:
        return None
    return rollback_plan(session, config, row.service, row.env, target)
