"""The ports the engine calls, and the frozen values that cross them. No SQLModel row crosses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from adapters.access import AccessPolicy
from adapters.measures import Measures
from adapters.routing import Routing, TrackRule


@dataclass(frozen=True, slots=True)
class ReplicaSetSpec:
    """`replicas` copies of one release serving one service in one environment. Absolute; 0 means none."""

    service: str
    env: str
    release_id: str
    digest: str
    bundle_path: Path
    replicas: int
    serving: Mapping[str, Any] = field(default_factory=dict)
    role: str = ""
    """"baseline": fresh copies beside those that serve; they count, start and end on their own."""


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """One replica as the world has it. `end_cause` is set once it is dead."""

    spawn_id: str
    service: str
    env: str
    release_id: str
    digest: str
    slot: int
    address: str
    pid: int
    is_ready: bool
    is_alive: bool
    restarts: int
    end_cause: str = ""
    is_wanted: bool = True
    """False while it finishes its streams before it ends; such a one is not ready either."""
    role: str = ""
    start_s: float | None = None
    """From its making until it could answer; None when nobody has measured it."""


class Runtime(Protocol):
    """Where replicas run."""

    async def ensure(self, spec: ReplicaSetSpec) -> None:
        """Make the set what `spec` says; repeating it changes nothing. Raises OperationFailed or Unreachable."""

    async def observe(self, service: str, env: str) -> Sequence[ReplicaStatus]:
        """Every replica of the service in the environment, any release."""

    async def probe(self, spec: ReplicaSetSpec) -> str | None:
        """Generate one token on every replica of the set; None when all answered, else what went wrong."""

    def crash_loop(self, service: str, env: str, release_id: str) -> str | None:
        """The reason the set counts as a crash loop, or None."""


@dataclass(frozen=True, slots=True)
class Backend:
    """A track's place in a route: its release, its weight in percent, its replicas' addresses."""

    track: str
    release_id: str
    weight: int
    replicas: tuple[tuple[str, str], ...]
    """(spawn_id, address) pairs; an address is `unix:/path` or `http://host:port`."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where one service's requests go in one environment. Weights of all backends sum to 100."""

    service: str
    env: str
    target: str
    rollout_id: str
    backends: tuple[Backend, ...]
    slow_ms: float
    deadline_s: float
    routing: Routing | None = None
    """How requests are treated beyond the weights; None is `adapters.routing.PLAIN`. A rollout's rules, mirror and split
    are put before, or in the place of, what the service's own configuration says."""
    access: AccessPolicy | None = None
    """Answers that may be kept, texts that must not pass."""
    measures: Measures | None = None
    """What of its answers is measured beyond errors and time."""


@dataclass(frozen=True, slots=True)
class Observed:
    """A service's route as every worker has it: release → weight, and what else a rollout may have put there."""

    weights: Mapping[str, int]
    shadow: str | None = None
    mirror_pct: int = 0
    canary_rules: tuple[TrackRule, ...] = ()
    """Rules that lead to a canary that stands in the route."""
    baseline_weight: int = 0


class TrafficRouter(Protocol):
    """What splits traffic. A change counts when every worker has acknowledged it."""

    async def apply(self, route: Route) -> int:
        """Replace the service's route; returns the table revision every worker acknowledged. Raises Unreachable."""

    async def observe(self, service: str, env: str) -> Observed | None:
        """The route as every worker has it, None when workers disagree or have none."""


@dataclass(frozen=True, slots=True)
class ArmCounts:
    """What one track did: requests that count, bad ones, and ones slower than the objective's threshold.

    `checked` answers were looked at for quality and `failed` of them were found wanting; `priced` requests have a price
    and `dear` of them cost more than the ceiling; `busy_s` is the replicas' time they took together, `tokens` what came out.
    """

    requests: int = 0
    errors: int = 0
    slow: int = 0
    checked: int = 0
    failed: int = 0
    priced: int = 0
    dear: int = 0
    busy_s: float = 0.0
    tokens: int = 0

    def __add__(self, other: ArmCounts) -> ArmCounts:
        return ArmCounts(
            self.requests + other.requests,
            self.errors + other.errors,
            self.slow + other.slow,
            self.checked + other.checked,
            self.failed + other.failed,
            self.priced + other.priced,
            self.dear + other.dear,
            self.busy_s + other.busy_s,
            self.tokens + other.tokens,
        )


@dataclass(frozen=True, slots=True)
class Interval:
    """Both arms in one counting interval [t0, t1), Unix seconds."""

    t0: float
    t1: float
    stable: ArmCounts
    canary: ArmCounts


@dataclass(frozen=True, slots=True)
class Unsafe:
    """One track's answers in which a safety check found something, and how many callers got them."""

    answers: int = 0
    callers: int = 0


@dataclass(frozen=True, slots=True)
class ArmEvidence:
    """All intervals of one step, the gaps between them in seconds, and how old the newest is.

    `trouble` names why a source has nothing to say ("unreachable: …"); then `intervals` is empty.
    """

    intervals: tuple[Interval, ...]
    gap_s: float
    age_s: float | None
    trouble: str = ""
    trouble_s: float = math.inf
    """For how long it has had nothing to say; one answer that failed to come is not yet a loss."""
    unsafe_stable: Unsafe = Unsafe()
    unsafe_canary: Unsafe = Unsafe()
    is_baseline: bool = False
    """The intervals' `stable` is the baseline track: a fresh copy of stable that gets as much as the canary."""
    copies: tuple[Interval, ...] = ()
    """The same intervals with the shadow in the canary's place, where a gateway that is not ours makes the copies."""
    lacks: tuple[str, ...] = ()
    """What the source does not count at all, by the judge's names: zero of it means nothing."""


class MetricsSource(Protocol):
    """Logical questions about traffic, answered by the embedded scraper or by Prometheus."""

    async def arms(self, service: str, env: str, rollout_id: str, table_revision: int, since: float) -> ArmEvidence:
        """The canary, and what it is compared with (stable, or the baseline), since a step's weight was acknowledged."""


@dataclass(frozen=True, slots=True)
class OutsideAlert:
    """An alert that another evaluator raised. (fingerprint, starts_at) is one occurrence; `is_quiet`: silenced or inhibited."""

    fingerprint: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    starts_at: float
    is_quiet: bool = False
    link: str = ""


@dataclass(frozen=True, slots=True)
class OutsideSilence:
    """A silence where it is kept."""

    id: str
    comment: str
    is_over: bool


class AlertSource(Protocol):
    """Where others' alerts stand, ours are sent to, and silences hold."""

    async def send(self, alerts: Sequence[Mapping[str, Any]]) -> Mapping[str, str]:
        """Give alerts to every peer. Returns what went wrong, by peer; "" for nothing."""

    async def active(self) -> Sequence[OutsideAlert]:
        """What is active now. Raises Unreachable: then nothing is known, which is not "nothing is active"."""

    async def silences(self) -> Sequence[OutsideSilence]:
        """Every silence that is remembered. Raises Unreachable."""

    async def silence(
        self, matchers: Mapping[str, str], *, by: str, comment: str, starts_at: float, ends_at: float
    ) -> str:
        """Make a silence; returns its id. Raises Unreachable, Conflict."""

    async def expire(self, silence_id: str) -> None:
        """End a silence. Raises Unreachable."""

    async def close(self) -> None:
        """Let go of what it holds."""


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file of a release's bundle."""

    path: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Registration:
    """All a registry must remember of a new model version. `build_key` makes registering idempotent."""

    model_name: str
    build_key: str
    bundle_path: Path
    files: tuple[ModelFile, ...]
    digest: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    dataset_name: str
    dataset_sha256: str
    dataset_path: Path
    tags: Mapping[str, str]
    prompt_name: str = ""
    prompt_text: str = ""
    prompt_sha256: str = ""


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A version in a registry."""

    model_name: str
    version: str
    run_id: str
    source: str
    tags: Mapping[str, str]


class Registry(Protocol):
    """The model registry. All calls block; the engine makes them in a bounded thread with a deadline."""

    def register(self, registration: Registration) -> ModelVersion:
        """Make, or find by build key, the version. Raises Unreachable, OperationFailed."""

    def aliases(self, model_name: str) -> Mapping[str, str]:
        """alias → version, as the registry has it now."""

    def set_alias(self, model_name: str, alias: str, version: str) -> None:
        """Point `alias` at `version` and read it back. Raises Conflict when it reads back otherwise."""

    def drop_alias(self, model_name: str, alias: str) -> None:
        """Remove `alias`; nothing happens when there is none."""

    def tag(self, model_name: str, version: str, tags: Mapping[str, str]) -> None:
        """Set tags on a version."""

    def version(self, model_name: str, version: str) -> ModelVersion:
        """The version with its tags."""

    def close(self) -> None:
        """Let go of connections."""
