"""A small living world in canned objects: what the fake engine serves and rows are made of."""

from __future__ import annotations

from typing import Any

from engine.api.schemas import (
    AlertView,
    ArmView,
    CheckView,
    EventView,
    FleetRow,
    GateView,
    LineageNode,
    PlanLine,
    PlanView,
    ReleaseView,
    ReplicaView,
    RolloutView,
    RunView,
    SloView,
    Snapshot,
    StageView,
    StatusView,
    StepView,
    TrackView,
    VerdictView,
)
from engine.verbs import ROLLOUT_VERBS, alert_refusal, rollout_refusal, run_refusal
from state.words import RolloutState, RunState

T0 = 1_780_000_000.0


def rollout(state: str = "step_baking", **changes: Any) -> RolloutView:
    """A rollout of chat in production at its second step."""
    verdict = VerdictView(
        at=T0 - 2,
        step=1,
        kind="INCONCLUSIVE",
        needs_requests=412,
        needs_s=192.0,
        guard="errors",
        sentence="not yet: the canary's errors (2 of 1,187) are no worse than stable's (3 of 1,204) so far, e = 8.1 of 20 needed",
        checks=(
            CheckView(
                metric="errors",
                kind="INCONCLUSIVE",
                route="non-inferior to stable",
                stable_rate=0.0025,
                canary_rate=0.0017,
                interval=(-0.004, 0.003),
                upper_bound=0.009,
                limit=0.005,
                e_harm=0.4,
                e_pass=8.1,
                threshold=20.0,
            ),
            CheckView(
                metric="latency",
                kind="PASS",
                route="below the SLO",
                stable_rate=0.012,
                canary_rate=0.011,
                interval=(-0.006, 0.005),
                upper_bound=0.021,
                limit=0.05,
                e_harm=0.1,
                e_pass=44.0,
                threshold=20.0,
            ),
        ),
    )
    fields: dict[str, Any] = {
        "id": "ro-2",
        "service": "chat",
        "env": "production",
        "protected": True,
        "strategy": "canary",
        "from_release": "charlm-1",
        "to_release": "charlm-2",
        "state": state,
        "step": 1,
        "revision": 12,
        "pause_reason": "",
        "message": "",
        "reason": "better loss",
        "weight": 50,
        "measured_pct": 49.6,
        "created_by": "user:alice",
        "created_at": T0 - 200,
        "state_since": T0 - 34,
        "finished_at": None,
        "warm_until": None,
        "registry_sync": "",
        "verdict": verdict,
        "steps": (
            StepView(
                idx=0,
                kind="weight",
                weight=25,
                state="passed",
                started_at=T0 - 120,
                elapsed_s=41,
                verdict=verdict.model_copy(update={"kind": "PASS", "step": 0}),
            ),
            StepView(
                idx=1, kind="weight", weight=50, state="baking", started_at=T0 - 34, elapsed_s=34, verdict=verdict
            ),
            StepView(idx=2, kind="weight", weight=100, state="waiting", started_at=None, elapsed_s=0, verdict=None),
        ),
        "stable": ArmView(release_id="charlm-1", requests=1204, errors=3, slow=14, p95_ms=412.0),
        "canary": ArmView(release_id="charlm-2", requests=1187, errors=2, slow=13, p95_ms=388.0),
        "refusals": {v: why for v in ROLLOUT_VERBS if (why := rollout_refusal(v, RolloutState(state)))},
        "promote_plan": PlanView(
            verb="rollout.promote",
            ref="rollout/ro-2",
            expected_s=4,
            lines=(PlanLine(object="chat canary", field="weight", before="50 %", after="100 %"),),
            warnings=("the verdict of this step is INCONCLUSIVE",),
        ),
        "rollback_plan": PlanView(
            verb="rollback",
            ref="rollout/ro-2",
            expected_s=2,
            lines=(
                PlanLine(object="chat stable", field="weight", before="50 %", after="100 %"),
                PlanLine(object="chat canary", field="replicas", before="1", after="0"),
            ),
        ),
        "events": tuple(
            EventView(
                id=i, at=T0 - 200 + i * 20, actor="system:engine", action=a, ref="rollout/ro-2", reason="", detail=d
            )
            for i, (a, d) in enumerate(
                [
                    ("rollout.begin", {"to": "charlm-2"}),
                    ("step.apply", {"weight": 25}),
                    ("verdict", {"kind": "PASS"}),
                    ("step.apply", {"weight": 50}),
                ],
                start=40,
            )
        ),
    }
    return RolloutView(**{**fields, **changes})


def fleet_row(service: str = "chat", env: str = "production", **changes: Any) -> FleetRow:
    """A service with a canary at half."""
    fields: dict[str, Any] = {
        "service": service,
        "env": env,
        "protected": env != "dev",
        "release_id": "charlm-1",
        "rps": 38.2,
        "p95_ms": 402.0,
        "error_ratio": 0.0021,
        "budget_left": 0.62,
        "coverage": 1.0,
        "rollout_id": "ro-2" if service == "chat" and env == "production" else None,
        "phase": "step_baking" if service == "chat" and env == "production" else "",
        "alerts": 1 if service == "chat" else 0,
        "paging": 0,
        "held_by": "",
        "frozen": "",
        "rate_series": tuple(20 + (i * 7) % 13 + i * 0.6 for i in range(40)),
        "tracks": (
            TrackView(
                track="stable",
                release_id="charlm-1",
                weight=50,
                measured_pct=50.4,
                replicas=2,
                ready=2,
                requests=1204,
                errors=3,
                p95_ms=412.0,
            ),
            TrackView(
                track="canary",
                release_id="charlm-2",
                weight=50,
                measured_pct=49.6,
                replicas=1,
                ready=1,
                requests=1187,
                errors=2,
                p95_ms=388.0,
            ),
        )
        if service == "chat" and env == "production"
        else (
            TrackView(
                track="stable",
                release_id="charlm-1",
                weight=100,
                measured_pct=100.0,
                replicas=1,
                ready=1,
                requests=804,
                errors=0,
                p95_ms=300.0,
            ),
        ),
    }
    return FleetRow(**{**fields, **changes})


def run(state: str = "running") -> RunView:
    """A run of charlm in its training."""
    names = ("collect", "snapshot", "validate", "train", "evaluate", "register", "release")
    stages = tuple(
        StageView(
            name=n,
            state="cached" if i < 2 else "succeeded" if i < 3 else state if i == 3 else "pending",
            started_at=T0 - 90 + i * 10 if i <= 3 else None,
            finished_at=T0 - 85 + i * 10 if i < 3 else None,
            attempt=1,
            metrics={"rows": 12041, "missing_rate": 0.0} if i == 2 else {},
            progress={"step": 420, "steps": 600, "loss": 2.013} if i == 3 else {},
            gates=(GateView(name="missing_rate", value=0.0, limit=0.01, op="<", passed=True, blocking=True),)
            if i == 2
            else (),
            error="",
        )
        for i, n in enumerate(names)
    )
    return RunView(
        id="run-3",
        pipeline="charlm",
        state=state,
        params={"train.steps": 600, "train.seed": 1337},
        release_id=None,
        error="",
        created_by="user:alice",
        created_at=T0 - 95,
        finished_at=None,
        stages=stages,
        refusals={v: why for v in ("run.cancel", "run.retry") if (why := run_refusal(v, RunState(state)))},
    )


def release(number: int, live: tuple[str, ...] = ()) -> ReleaseView:
    """A release of charlm."""
    return ReleaseView(
        id=f"charlm-{number}",
        service="chat",
        lifecycle="Production" if live else "Staging",
        model_name="charlm",
        model_version=str(number),
        digest=f"sha256:{number:064x}",
        run_id=f"run-{number}",
        dataset_id="ds-1",
        prompt_id="prompt-1",
        parent_id=None,
        git_commit="0123abc",
        seed=1337,
        training={"steps": 600 * number, "model": {"n_layer": 4, "n_head": 4}},
        serving={"max_batch": 8},
        metrics={"val_loss": 2.1 - number * 0.1, "bits_per_char": 3.0 - number * 0.15},
        live_in=live,
        rejected_reason="",
        created_by="user:alice",
        created_at=T0 - 4000 / number,
    )


def alert(
    number: int = 7,
    state: str = "active",
    acked_by: str = "",
    summary: str = "burning 14× the even rate over 5 m and 1 h",
) -> AlertView:
    """An alert on chat."""
    return AlertView(
        id=number,
        name="burn_rate_fast",
        severity="ticket",
        service="chat",
        env="production",
        summary=summary,
        state=state,
        starts_at=T0 - 600,
        ends_at=None if state == "active" else T0 - 60,
        acked_by=acked_by,
        acked_at=None,
        silenced=False,
        notified_at=T0 - 599,
        notify_error="",
        refusals={v: w for v in ("alert.ack",) if (w := alert_refusal(v, state, bool(acked_by)))},
    )


def snapshot(**changes: Any) -> Snapshot:
    """A small living world."""
    fields: dict[str, Any] = {
        "seq": 1,
        "as_of": T0,
        "status": StatusView(
            version="0.1.0",
            pid=1,
            workspace="/srv/demo",
            name="demo",
            is_demo=True,
            state="running",
            started_at=T0 - 900,
            gateway="http://127.0.0.1:8080",
            gateway_workers=2,
            gateway_ready=2,
            replicas=3,
            replicas_ready=3,
            adapters={"registry": "up", "metrics": "up"},
            audit_rows=812,
            audit_head="9f" * 32,
            audit_ok=True,
            no_one_is_paged=True,
        ),
        "fleet": (
            fleet_row(),
            fleet_row(env="staging"),
            fleet_row("summarize", "dev", budget_left=None, coverage=None, error_ratio=None),
        ),
        "rollouts": (
            rollout(),
            rollout(
                "completed",
                id="ro-1",
                step=2,
                weight=100,
                to_release="charlm-1",
                from_release=None,
                revision=30,
                finished_at=T0 - 3000,
                promote_plan=None,
                rollback_plan=None,
                events=(),
            ),
        ),
        "runs": (run(),),
        "releases": (release(2), release(1, ("chat/production",))),
        "alerts": (alert(), alert(6, "resolved", "user:bob")),
        "slos": (
            SloView(
                service="chat",
                env="production",
                availability=99.5,
                latency_p95_ms=800,
                window_d=28,
                sli=0.9979,
                budget_left=0.62,
                burn={"5m": 0.4, "1h": 1.2, "6h": 0.9, "3d": None},
                coverage=1.0,
                requests=48120,
                errors=101,
            ),
        ),
        "serving": (
            ReplicaView(
                spawn_id="g-a1b2c3d4",
                kind="gateway",
                service="",
                env="",
                release_id="",
                pid=4100,
                state="ready",
                restarts=0,
                started_at=T0 - 900,
                detail="worker 0",
            ),
            ReplicaView(
                spawn_id="m-99ff0011",
                kind="model",
                service="chat",
                env="production",
                release_id="charlm-2",
                pid=4200,
                state="ready",
                restarts=1,
                started_at=T0 - 300,
                detail="canary",
            ),
        ),
        "audit": tuple(
            EventView(
                id=i,
                at=T0 - 100 + i,
                actor="user:alice" if i % 3 == 0 else "system:engine",
                action="rollout.promote" if i % 3 == 0 else "step.apply",
                ref="rollout/ro-2",
                reason="looks good" if i % 3 == 0 else "",
                detail={"weight": i},
            )
            for i in range(1, 13)
        ),
    }
    return Snapshot(**{**fields, **changes})


LINEAGE = LineageNode(
    ref="service/chat",
    kind="service",
    label="chat in production",
    edge="",
    children=(
        LineageNode(
            ref="release/charlm-1",
            kind="release",
            label="charlm-1",
            edge="serves",
            children=(
                LineageNode(
                    ref="run/run-1",
                    kind="run",
                    label="run-1 of charlm",
                    edge="made by",
                    children=(
                        LineageNode(
                            ref="dataset/ds-1", kind="dataset", label="pydoc topics, sha256 0a1b2c", edge="read"
                        ),
                        LineageNode(ref="commit/0123abc", kind="commit", label="0123abc", edge="at"),
                    ),
                ),
                LineageNode(ref="prompt/prompt-1", kind="prompt", label="prompt-1", edge="with"),
            ),
        ),
    ),
)
FORWARD = LineageNode(ref="service/chat", kind="service", label="chat answers users", edge="")


class World:
    """The builders of canned objects, for tests that change one."""

    rollout = staticmethod(rollout)
    fleet_row = staticmethod(fleet_row)
    run = staticmethod(run)
    release = staticmethod(release)
    alert = staticmethod(alert)
    snapshot = staticmethod(snapshot)
    lineage = LINEAGE
    now = T0
