"""The records, as SQLModel tables. Nothing above `state` and `engine`'s edge sees a live row.

Times are Unix seconds (UTC, float). JSON columns hold canonical JSON of plain values. References between
records are `kind:id` strings (`release:charlm-3`), the same that the console shows and `lineage` takes.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, Column, Index, UniqueConstraint, text
from sqlmodel import Field, SQLModel

from state.words import TERMINAL_STATES

NAMING = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
SQLModel.metadata.naming_convention = NAMING

_TERMINAL_SQL = ", ".join(f"'{s.value}'" for s in sorted(TERMINAL_STATES))


def _json() -> Any:
    return Field(default_factory=dict, sa_column=Column(JSON, nullable=False))


def _json_list() -> Any:
    return Field(default_factory=list, sa_column=Column(JSON, nullable=False))


class KeyValue(SQLModel, table=True):
    """Small facts of the store itself: counters, schema and program versions, cursors."""

    __tablename__ = "kv"
    key: str = Field(primary_key=True)
    value: str


class Dataset(SQLModel, table=True):
    """A frozen data snapshot; the id is the first 12 hex digits of its manifest's sha256."""

    id: str = Field(primary_key=True)
    sha256: str = Field(index=True)
    name: str
    source: str
    path: str
    rows: int
    chars: int
    redactions: dict[str, int] = _json()
    created_at: float


class Prompt(SQLModel, table=True):
    """A versioned prompt set; id is `name/version`."""

    id: str = Field(primary_key=True)
    name: str
    version: int
    sha256: str
    body: dict[str, Any] = _json()
    created_at: float


class Run(SQLModel, table=True):
    """One execution of a pipeline; id is `run-N`."""

    id: str = Field(primary_key=True)
    pipeline: str = Field(index=True)
    state: str = Field(index=True)
    params: dict[str, Any] = _json()
    reason: str = ""
    release_id: str | None = None
    error: str = ""
    created_by: str
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None


class StageRun(SQLModel, table=True):
    """One stage of one run."""

    __tablename__ = "stage_run"
    run_id: str = Field(primary_key=True, foreign_key="run.id")
    name: str = Field(primary_key=True)
    position: int
    state: str
    cache_key: str = ""
    attempt: int = 0
    spawn_id: str = ""
    started_at: float | None = None
    finished_at: float | None = None
    metrics: dict[str, Any] = _json()
    gates: list[dict[str, Any]] = _json_list()
    progress: dict[str, Any] = _json()
    log_path: str = ""
    out_dir: str = ""
    error: str = ""


class Release(SQLModel, table=True):
    """An immutable bundle; id is `<pipeline>-N`."""

    id: str = Field(primary_key=True)
    service: str = Field(index=True)
    lifecycle: str
    model_name: str
    model_version: str
    digest: str
    bundle_path: str
    run_id: str | None = Field(default=None, foreign_key="run.id")
    dataset_id: str | None = Field(default=None, foreign_key="dataset.id")
    prompt_id: str | None = Field(default=None, foreign_key="prompt.id")
    parent_id: str | None = None
    git_commit: str = ""
    seed: int = 0
    training: dict[str, Any] = _json()
    serving: dict[str, Any] = _json()
    metrics: dict[str, Any] = _json()
    tokenizer_sha256: str = ""
    context_length: int = 0
    rejected_reason: str = ""
    created_by: str
    created_at: float


class Artifact(SQLModel, table=True):
    """One file of a release with its sha256."""

    release_id: str = Field(primary_key=True, foreign_key="release.id")
    path: str = Field(primary_key=True)
    sha256: str
    size: int


class LineageEdge(SQLModel, table=True):
    """`src` was made from, or is live because of, `dst`."""

    __tablename__ = "lineage_edge"
    __table_args__ = (Index("ix_lineage_edge_dst", "dst", "src"),)
    src: str = Field(primary_key=True)
    dst: str = Field(primary_key=True)
    kind: str = Field(primary_key=True)
    at: float


class Rollout(SQLModel, table=True):
    """Moving one service in one environment from one release to another; id is `ro-N`."""

    __table_args__ = (
        Index(
            "uq_rollout_one_active",
            "service",
            "env",
            unique=True,
            sqlite_where=text(f"state NOT IN ({_TERMINAL_SQL})"),
            postgresql_where=text(f"state NOT IN ({_TERMINAL_SQL})"),
        ),
    )
    id: str = Field(primary_key=True)
    service: str = Field(index=True)
    env: str
    target: str
    strategy: str
    from_release: str | None = None
    to_release: str
    state: str = Field(index=True)
    step: int = 0
    revision: int = 1
    policy: dict[str, Any] = _json()
    resume_state: str = ""
    pause_reason: str = ""
    message: str = ""
    reason: str = ""
    registry_sync: str = ""
    warm_until: float | None = None
    created_by: str
    created_at: float
    state_since: float
    state_boot: str = ""
    state_mono: float = 0.0
    finished_at: float | None = None


class RolloutStep(SQLModel, table=True):
    """One step of a rollout as it was played."""

    __tablename__ = "rollout_step"
    rollout_id: str = Field(primary_key=True, foreign_key="rollout.id")
    idx: int = Field(primary_key=True)
    kind: str
    weight: int = 0
    state: str = "pending"
    table_revision: int = 0
    started_at: float | None = None
    elapsed_s: float = 0.0
    boot_id: str = ""
    mono_at: float | None = None
    finished_at: float | None = None


class TrackState(SQLModel, table=True):
    """What a track of a service should be, per target: the release, its weight, its replicas."""

    __tablename__ = "track"
    service: str = Field(primary_key=True)
    env: str = Field(primary_key=True)
    target: str = Field(primary_key=True)
    track: str = Field(primary_key=True)
    release_id: str
    rollout_id: str = ""
    weight: int = 0
    replicas: int = 0
    warm_until: float | None = None
    routing: dict[str, Any] = _json()
    since: float


class Spawn(SQLModel, table=True):
    """A process the engine means to have. Written before the spawn, so that a killed engine finds its children."""

    spawn_id: str = Field(primary_key=True)
    kind: str = Field(index=True)
    owner: str = Field(index=True)
    service: str = ""
    env: str = ""
    release_id: str = ""
    digest: str = ""
    slot: int = 0
    desired: str = "run"
    state: str = "intended"
    pid: int = 0
    address: str = ""
    started_at: float
    ready_at: float | None = None
    ended_at: float | None = None
    end_cause: str = ""


class Intent(SQLModel, table=True):
    """The journal: an effect on the world, written before it, closed after it."""

    id: int | None = Field(default=None, primary_key=True)
    key: str = Field(unique=True)
    rollout_id: str = Field(default="", index=True)
    kind: str
    payload: dict[str, Any] = _json()
    state: str = Field(index=True)
    attempts: int = 0
    outcome: dict[str, Any] = _json()
    created_at: float
    done_at: float | None = None


class Evidence(SQLModel, table=True):
    """What one gateway worker counted for one track in one interval. Ingested once: (boot_id, seq) is unique."""

    __table_args__ = (
        UniqueConstraint("boot_id", "seq", "service", "env", "target", "track", "release_id", "table_revision"),
        Index("ix_evidence_rollout", "rollout_id", "table_revision"),
        Index("ix_evidence_service_time", "service", "env", "t1"),
    )
    id: int | None = Field(default=None, primary_key=True)
    boot_id: str
    seq: int
    table_revision: int
    t0: float
    t1: float = Field(index=True)
    service: str
    env: str
    target: str
    track: str
    release_id: str
    rollout_id: str = ""
    requests: int = 0
    errors: int = 0
    slow: int = 0
    codes: dict[str, int] = _json()
    latency: dict[str, Any] = _json()
    tokens: int = 0
    checked: int = 0
    failed: int = 0
    priced: int = 0
    dear: int = 0
    busy_s: float = 0.0


class SliMinute(SQLModel, table=True):
    """One minute of a service's service level: gateway counts and prober results. No row means unknown."""

    __tablename__ = "sli_minute"
    service: str = Field(primary_key=True)
    env: str = Field(primary_key=True)
    minute: int = Field(primary_key=True)
    requests: int = 0
    errors: int = 0
    slow: int = 0
    probes: int = 0
    probe_errors: int = 0


class VerdictRecord(SQLModel, table=True):
    """What the judge said of a step, each time its word changed."""

    __tablename__ = "verdict"
    id: int | None = Field(default=None, primary_key=True)
    rollout_id: str = Field(index=True, foreign_key="rollout.id")
    step: int
    at: float
    kind: str
    sentence: str
    detail: dict[str, Any] = _json()
    consumed: bool = False


class Approval(SQLModel, table=True):
    """A person's yes or no to a rollout."""

    id: int | None = Field(default=None, primary_key=True)
    rollout_id: str = Field(index=True, foreign_key="rollout.id")
    by: str
    at: float
    decision: str
    reason: str = ""
    plan_hash: str = ""
    """Of the plan as it stood: what is approved is that plan and no other."""
    gate: int = -1
    """Where it was said: -1 before the first step, else the index of an approval step."""


class BrokenGlass(SQLModel, table=True):
    """Somebody went past what forbade a verb; flagged until somebody else acknowledges it."""

    __tablename__ = "broken_glass"
    id: int | None = Field(default=None, primary_key=True)
    rollout_id: str = Field(index=True, foreign_key="rollout.id")
    service: str
    env: str
    verb: str
    by: str
    at: float
    reason: str
    passed: str
    acked_by: str = ""
    acked_at: float | None = None
    ack_reason: str = ""


class HookDelivery(SQLModel, table=True):
    """The outbox of notification hooks: one event for one hook, kept until it was taken or given up."""

    __tablename__ = "hook_delivery"
    id: int | None = Field(default=None, primary_key=True)
    hook: str = Field(index=True)
    delivery_id: str = Field(unique=True)
    event: str
    ref: str
    body: str
    state: str = Field(index=True)
    attempts: int = 0
    next_at: float
    error: str = ""
    created_at: float
    done_at: float | None = None


class Alert(SQLModel, table=True):
    """One alert from its start to its end; (fingerprint, starts_at) is one occurrence."""

    __table_args__ = (UniqueConstraint("fingerprint", "starts_at"),)
    id: int | None = Field(default=None, primary_key=True)
    fingerprint: str = Field(index=True)
    name: str
    severity: str
    service: str = ""
    env: str = ""
    summary: str
    labels: dict[str, str] = _json()
    state: str = Field(index=True)
    starts_at: float
    ends_at: float | None = None
    acked_by: str = ""
    acked_at: float | None = None
    notified_at: float | None = None
    notify_error: str = ""


class Silence(SQLModel, table=True):
    """No notification for matching alerts until it expires."""

    id: int | None = Field(default=None, primary_key=True)
    matchers: dict[str, str] = _json()
    created_by: str
    reason: str
    starts_at: float
    ends_at: float


class Feedback(SQLModel, table=True):
    """A user's or a system's word on one answer."""

    id: int | None = Field(default=None, primary_key=True)
    at: float
    request_id: str = Field(index=True)
    kind: str
    value: str


class Lease(SQLModel, table=True):
    """A hold or a freeze: named, owned, with an expiry."""

    name: str = Field(primary_key=True)
    kind: str
    holder: str
    reason: str
    starts_at: float
    ends_at: float


class Audit(SQLModel, table=True):
    """The append-only, hash-chained record of every change and its author (see state.audit)."""

    id: int | None = Field(default=None, primary_key=True)
    at: float
    actor: str
    action: str
    ref: str = Field(index=True)
    reason: str = ""
    detail: dict[str, Any] = _json()
    prev: str
    hash: str
