"""What crosses the engine's API: pydantic models that the console reads. Times are Unix seconds, UTC."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict

from engine.api.course_schemas import CourseView
from engine.api.people_schemas import GateOfPeople, GlassView


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)


class TrackView(_Model):
    """One track of a service: what it serves, what share it should get and what it got in the last minute."""

    track: str
    release_id: str
    weight: int
    measured_pct: float | None
    replicas: int
    ready: int
    requests: int
    errors: int
    p95_ms: float | None


class FleetRow(_Model):
    """A service in an environment, the line the on-call engineer reads first."""

    service: str
    env: str
    protected: bool
    release_id: str | None
    tracks: tuple[TrackView, ...]
    rps: float
    p95_ms: float | None
    error_ratio: float | None
    budget_left: float | None
    """Share of the error budget left, 1 = untouched, below 0 = overspent; None = unknown."""
    coverage: float | None
    rollout_id: str | None
    phase: str
    alerts: int
    paging: int
    held_by: str
    held_until: float | None = None
    held_reason: str = ""
    frozen: str
    scaled: str = ""
    """The number of replicas that a hand set, by whom and until when; empty while the file or the autoscaler says it."""
    break_glass: str = ""
    """Who went past the rules and why, until somebody else has acknowledged it."""
    rate_series: tuple[float, ...] = ()
    """Requests per second, newest last, one point every few seconds."""


class ArmView(_Model):
    """One side of the judge's comparison, since the step's weight was acknowledged."""

    release_id: str
    requests: int
    errors: int
    slow: int
    p95_ms: float | None


class CheckView(_Model):
    """One metric of a verdict."""

    metric: str
    kind: str
    route: str
    stable_rate: float | None
    canary_rate: float | None
    interval: tuple[float, float] | None
    upper_bound: float | None
    limit: float
    e_harm: float
    e_pass: float
    threshold: float


class VerdictView(_Model):
    """What the judge said, when, and in one sentence why."""

    at: float
    step: int
    kind: str
    sentence: str
    cause: str = ""
    guard: str = ""
    checks: tuple[CheckView, ...] = ()
    needs_requests: int | None = None
    needs_s: float | None = None


class StepView(_Model):
    """One step of a rollout."""

    idx: int
    kind: str
    weight: int
    state: str
    started_at: float | None
    elapsed_s: float
    verdict: VerdictView | None
    says: str = ""
    """What the step does, in few words."""


class PlanLine(_Model):
    """One thing a verb would change."""

    object: str
    field: str
    before: str
    after: str


class PlanView(_Model):
    """What a verb would do, how long it takes, and what to know first."""

    verb: str
    ref: str
    lines: tuple[PlanLine, ...]
    warnings: tuple[str, ...] = ()
    expected_s: float | None = None
    warmth: str = ""
    """Of a rollback: whether the release that is returned to could take the traffic now (warm, partly warm, cold)."""
    sheds: str = ""
    """What is not served on the way; empty: nothing."""


class EventView(_Model):
    """An audit row as an event of an object."""

    id: int
    at: float
    actor: str
    action: str
    ref: str
    reason: str
    detail: dict[str, Any]


class RolloutView(_Model):
    """A rollout, whole."""

    id: str
    service: str
    env: str
    protected: bool
    strategy: str
    from_release: str | None
    to_release: str
    state: str
    step: int
    revision: int
    pause_reason: str
    message: str
    reason: str
    weight: int
    measured_pct: float | None
    created_by: str
    created_at: float
    state_since: float
    finished_at: float | None
    warm_until: float | None
    registry_sync: str
    steps: tuple[StepView, ...]
    preview: str = ""
    """The header by which a person reaches the new release before it has traffic; empty where there is none."""
    stable: ArmView | None
    canary: ArmView | None
    verdict: VerdictView | None
    refusals: dict[str, str]
    """verb → why not; a verb that is missing may run."""
    gate: GateOfPeople | None = None
    glass: tuple[GlassView, ...] = ()
    why: str = ""
    """What it waits for, in a sentence; empty once it is over."""
    promote_plan: PlanView | None = None
    rollback_plan: PlanView | None = None
    events: tuple[EventView, ...] = ()
    course: CourseView | None = None
    """How it went over time; None before it had traffic, and where it is not shown whole."""


class GateView(_Model):
    """A gate's result."""

    name: str
    value: float | None
    limit: float
    op: str
    passed: bool
    blocking: bool


class StageView(_Model):
    """One stage of a run."""

    name: str
    state: str
    started_at: float | None
    finished_at: float | None
    attempt: int
    metrics: dict[str, Any]
    progress: dict[str, Any]
    gates: tuple[GateView, ...]
    error: str


class RunView(_Model):
    """A pipeline run."""

    id: str
    pipeline: str
    state: str
    params: dict[str, Any]
    release_id: str | None
    error: str
    created_by: str
    created_at: float
    finished_at: float | None
    stages: tuple[StageView, ...]
    refusals: dict[str, str]


class ReleaseView(_Model):
    """A release."""

    id: str
    service: str
    lifecycle: str
    model_name: str
    model_version: str
    digest: str
    run_id: str | None
    dataset_id: str | None
    prompt_id: str | None
    parent_id: str | None
    git_commit: str
    seed: int
    training: dict[str, Any]
    serving: dict[str, Any]
    metrics: dict[str, Any]
    live_in: tuple[str, ...]
    rejected_reason: str
    created_by: str
    created_at: float


class AlertView(_Model):
    """One occurrence of an alert."""

    id: int
    name: str
    severity: str
    service: str
    env: str
    summary: str
    state: str
    starts_at: float
    ends_at: float | None
    acked_by: str
    acked_at: float | None
    silenced: bool
    notified_at: float | None
    notify_error: str
    refusals: dict[str, str]


class SloView(_Model):
    """A service's objectives and how they stand."""

    service: str
    env: str
    availability: float
    latency_p95_ms: float
    window_d: float
    sli: float | None
    budget_left: float | None
    burn: dict[str, float | None]
    """window ("5m", "1h", …) → burn rate, 1 = exactly on budget; None = no evidence."""
    coverage: float
    requests: int
    errors: int


class ReplicaView(_Model):
    """A process that serves; of a pod `pid` and `started_at` are 0."""

    spawn_id: str
    kind: str
    service: str
    env: str
    release_id: str
    pid: int
    state: str
    restarts: int
    started_at: float
    detail: str


class CapacityView(_Model):
    """What a service's replicas did in the last seconds, and what that load needs (Little's law); None: nothing measured."""

    service: str
    env: str
    window_s: float
    """Seconds that were really seen, of those asked for."""
    replicas: int
    concurrency: int
    """Requests one replica does well at once."""
    wanted: int
    """Replicas that are meant to be there."""
    autoscaled: bool
    target: float
    requests: int
    arrival_rate: float | None = None
    service_time_s: float | None = None
    wait_s: float | None = None
    in_service: float | None = None
    utilisation: float | None = None
    recommended_concurrency: int | None = None
    recommended_replicas: int | None = None
    headroom_rps: float | None = None


class LineageNode(_Model):
    """A record and what it was made from (or, forward, what was made from it)."""

    ref: str
    kind: str
    label: str
    edge: str
    children: tuple[LineageNode, ...] = ()


class DifferenceView(_Model):
    """One thing that the record and the world say differently, and what to do."""

    kind: str
    ref: str
    record: str
    world: str
    todo: str


class DrillView(_Model):
    """A drill that was played: what it measured, in seconds unless its name says otherwise, and whether that was met."""

    id: int
    """The audit row it is recorded in."""
    name: str
    at: float
    service: str
    env: str
    outcome: str
    """met, missed or failed."""
    by: str
    measured: dict[str, float | None]
    target_s: float | None
    message: str


class AdapterView(_Model):
    """Something outside that does not answer: since when, what it said, and what goes on without it."""

    name: str
    error: str
    since: float
    goes_on: str


class StatusView(_Model):
    """One screen of health."""

    version: str
    pid: int
    workspace: str
    name: str
    is_demo: bool
    state: str
    started_at: float
    gateway: str
    """The public address, `http://host:port`."""
    gateway_workers: int
    gateway_ready: int
    replicas: int
    replicas_ready: int
    adapters: dict[str, str]
    """adapter → "up", or what is wrong with it."""
    down: tuple[AdapterView, ...] = ()
    """The servers outside that do not answer now."""
    profiles: tuple[dict[str, Any], ...] = ()
    """Whether Prometheus has each service's metrics: service, env, profile, level, says, and its metrics with their labels."""
    audit_rows: int
    audit_head: str
    audit_ok: bool
    audit_unchecked: int = 0
    """Rows that the engine has not followed yet since it started."""
    store_trouble: str = ""
    """Why nothing can be written just now: the store is locked, read-only or full; "" while it can."""
    no_one_is_paged: bool
    backup_at: float | None = None
    """When the newest backup was made; None: there is none."""
    backup_trouble: str = ""
    drill: DrillView | None = None
    """The newest drill."""
    drift: tuple[dict[str, Any], ...] = ()
    """Live texts against the training snapshot: service, env, release, what, says, beyond (the measures above their limits)."""
    cost: tuple[dict[str, Any], ...] = ()
    """What requests cost: service, env, says, over (the budgets that are overspent)."""
    demo: dict[str, Any] = {}
    """Progress of `airboss demo`, when one runs: act, message, started_at."""


_T = TypeVar("_T")
Rows = Annotated[Sequence[_T], AfterValidator(tuple)]
"""Many of them: a tuple, or in a console what makes each when it is looked at."""


class Snapshot(_Model):
    """Everything the console's first screens show, at one moment."""

    seq: int
    as_of: float
    status: StatusView
    fleet: Rows[FleetRow]
    rollouts: Rows[RolloutView]
    runs: Rows[RunView]
    releases: Rows[ReleaseView]
    alerts: Rows[AlertView]
    slos: Rows[SloView]
    serving: Rows[ReplicaView]
    audit: Rows[EventView]


class Event(_Model):
    """A line of the event stream: something about `ref` changed."""

    seq: int
    at: float
    type: str
    ref: str
    message: str = ""


class VerbRequest(_Model):
    """A verb, from whichever front. `ref` is `service/NAME`, `rollout/ro-1`, `run/run-2`, `alert/3`, `env/NAME`."""

    verb: str
    ref: str
    args: dict[str, Any] = {}
    expect_revision: int | None = None
    dry_run: bool = False
    reason: str = ""
    yes: bool = False
    confirm_name: str = ""
    break_glass: bool = False
    """Go past what forbids it (an approval, a freeze, the second person): flagged until somebody else acknowledges it."""
    idempotency_key: str = ""
    """Asked again with the same key it is answered as before, and not done again (engine.operations.once)."""


class VerbResult(_Model):
    """What a verb did. `ref` names the object to watch (the new rollout, the run)."""

    verb: str
    ref: str
    changed: bool
    message: str
    revision: int | None = None
    plan: PlanView | None = None
    replayed: bool = False
    """It was done before, under the same idempotency key; this is the answer kept then."""


class LogChunk(_Model):
    """A piece of a log file from byte `offset`; ask again from `next_offset`."""

    text: str
    offset: int
    next_offset: int
    is_over: bool
