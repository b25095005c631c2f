"""The fleet, the engine's own status and what serves, as the console shows them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from sqlmodel import Session, col, select

from adapters.local.places import Place
from adapters.ports import ReplicaStatus
from engine.api.schemas import AlertView, FleetRow, ReplicaView, SloView, TrackView
from engine.observe.lifecycle import AlertRecord
from engine.observe.rates import Rates
from engine.observe.slo import SloStatus
from engine.people.freezes import in_force
from engine.people.glass import unacknowledged
from engine.rollouts import records
from engine.rollouts.wanted import ByHand, by_hand
from engine.verbs import alert_refusal
from state.config import Config
from state.models import Rollout, TrackState
from state.words import RolloutState, Severity

ALERT_VERBS = ("alert.ack", "alert.silence")


def fleet_row(
    session: Session,
    config: Config,
    service: str,
    env: str,
    *,
    rates: Rates,
    series: tuple[float, ...],
    slo: SloStatus | None,
    ready: Mapping[str, tuple[int, int]],
    alerts: Sequence[AlertRecord],
) -> FleetRow:
    """One line of the fleet. `ready` is release → (ready, all) replicas."""
    now = time.time()
    tracks = session.exec(select(TrackState).where(TrackState.service == service, TrackState.env == env)).all()
    rollout = session.exec(
        select(Rollout).where(Rollout.service == service, Rollout.env == env).order_by(col(Rollout.created_at).desc())
    ).first()
    stable = next((t.release_id for t in tracks if t.track == "stable"), None)
    mine = [a for a in alerts if a.service == service and a.env in ("", env)]
    holds = records.leases(session, env, "hold", now, service)
    freezes = in_force(session, config, env, service, now)
    glass = unacknowledged(session, service, env)
    return FleetRow(
        service=service, env=env, protected=config.environment[env].protected, release_id=stable,
        tracks=tuple(_track_view(t, rates, ready) for t in sorted(tracks, key=lambda t: t.track, reverse=True)),
        rps=rates.rps, p95_ms=rates.p95_ms, error_ratio=rates.error_ratio,
        budget_left=slo.budget_left if slo else None, coverage=slo.coverage if slo else None,
        rollout_id=rollout.id if rollout else None, phase=_phase(rollout),
        alerts=len(mine), paging=sum(a.severity == Severity.PAGE for a in mine),
        held_by=holds[0].holder if holds else "", held_until=holds[0].ends_at if holds else None,
        held_reason=holds[0].reason if holds else "", frozen=freezes[0].reason or freezes[0].by if freezes else "",
        scaled=scaled_words(by_hand(session, service, env)),
        break_glass="; ".join(f"{one.by}: {one.reason}" for one in glass),
        rate_series=series,
    )  # fmt: skip


def scaled_words(hand: ByHand | None) -> str:
    """`3 replicas by user:ana until 14:03 UTC (load of the sale)`."""
    if hand is None:
        return ""
    until = "" if hand.until is None else f" until {time.strftime('%H:%M', time.gmtime(hand.until))} UTC"
    return f"{hand.replicas} replicas by {hand.by}{until}{f' ({hand.reason})' if hand.reason else ''}"


def _phase(rollout: Rollout | None) -> str:
    if rollout is None:
        return ""
    state = RolloutState(rollout.state)
    if state in (RolloutState.STEP_APPLYING, RolloutState.STEP_BAKING):
        return f"step {rollout.step + 1}/{len(rollout.policy['steps'])} {state.value.removeprefix('step_')}"
    if state is RolloutState.PAUSED:
        return f"paused: {rollout.pause_reason}"
    return state.value.replace("_", " ")


def _track_view(track: TrackState, rates: Rates, ready: Mapping[str, tuple[int, int]]) -> TrackView:
    now = rates.by_track.get(track.track)
    up, total = ready.get(track.release_id, (0, 0))
    return TrackView(
        track=track.track, release_id=track.release_id, weight=track.weight,
        measured_pct=now.share_pct if now else None, replicas=total, ready=up,
        requests=now.requests if now else 0, errors=now.errors if now else 0, p95_ms=now.p95_ms if now else None,
    )  # fmt: skip


def slo_view(config: Config, status: SloStatus) -> SloView:
    """A service's objectives and how they stand."""
    objective = config.service[status.service].slo
    return SloView(
        service=status.service, env=status.env, availability=objective.availability,
        latency_p95_ms=objective.latency_p95_ms, window_d=objective.window_d, sli=status.sli,
        budget_left=status.budget_left, burn=dict(status.burn), coverage=status.coverage, requests=status.requests,
        errors=status.errors,
    )  # fmt: skip


def alert_view(record: AlertRecord, silenced: bool) -> AlertView:
    """One occurrence of an alert."""
    acked = bool(record.acked_by)
    return AlertView(
        id=record.id, name=record.name, severity=record.severity, service=record.service, env=record.env,
        summary=record.summary, state=record.state, starts_at=record.starts_at, ends_at=record.ends_at,
        acked_by=record.acked_by, acked_at=record.acked_at, silenced=silenced, notified_at=record.notified_at,
        notify_error=record.notify_error,
        refusals={v: why for v in ALERT_VERBS if (why := alert_refusal(v, record.state, acked))},
    )  # fmt: skip


def replica_view(place: Place) -> ReplicaView:
    """A process that serves."""
    state = "ready" if place.is_ready else ("starting" if place.child.is_alive() else "down")
    return ReplicaView(
        spawn_id=place.child.spec.spawn_id, kind=place.slot.kind, service=place.slot.service, env=place.slot.env,
        release_id=place.slot.release_id, pid=place.child.pid, state=state if place.is_wanted else "draining",
        restarts=place.restarts, started_at=place.started_at, detail=place.last_end,
    )  # fmt: skip


def pod_view(one: ReplicaStatus) -> ReplicaView:
    """A replica in a cluster: no process of this host, and of no known age."""
    state = "ready" if one.is_ready else ("starting" if one.is_alive else "down")
    return ReplicaView(
        spawn_id=one.spawn_id, kind="model", service=one.service, env=one.env, release_id=one.release_id, pid=0,
        state=state if one.is_wanted else "draining", restarts=one.restarts, started_at=0.0, detail=one.end_cause or "a pod",
    )  # fmt: skip


def ready_pods(pods: Sequence[ReplicaStatus]) -> dict[str, tuple[int, int]]:
    """release → (ready, all) of those that are wanted."""
    found: dict[str, tuple[int, int]] = {}
    for one in pods:
        if one.is_wanted and not one.role:
            up, total = found.get(one.release_id, (0, 0))
            found[one.release_id] = (up + (one.is_ready and one.is_alive), total + 1)
    return found
