"""What the alert rules look at, and what they find: values."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from engine.observe.slo import SloStatus
from state.digests import canonical_json
from state.words import RolloutState, Severity


@dataclass(frozen=True, slots=True)
class Firing:
    """A condition that holds now. It becomes an alert once it has held for `for_s`."""

    name: str
    severity: Severity
    summary: str
    service: str = ""
    env: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    for_s: float = 0.0
    since: float | None = None
    """Since when it holds, where another evaluator knows."""

    @property
    def fingerprint(self) -> str:
        """The same condition in the same place has the same one, whatever its summary says today."""
        identity = [self.name, self.service, self.env, dict(self.labels)]
        return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class ProbeFact:
    """How the prober finds a service. `kind` of the last failure: unreachable, deadline or bad."""

    service: str
    env: str
    failures_in_row: int
    kind: str
    error: str


@dataclass(frozen=True, slots=True)
class RolloutFact:
    """A rollout that moves, or ended lately, with what its tracks got since its step began."""

    id: str
    service: str
    env: str
    to_release: str
    state: RolloutState
    state_since: float
    pause_reason: str = ""
    message: str = ""
    verdict: str = ""
    verdict_sentence: str = ""
    canary_weight: int = 0
    stable_requests: int = 0
    canary_requests: int = 0
    canary_attempt_failures: int = 0


@dataclass(frozen=True, slots=True)
class CrashLoopFact:
    """A release whose replicas do not stay up."""

    service: str
    env: str
    release_id: str
    reason: str
    track: str = ""


@dataclass(frozen=True, slots=True)
class AdapterFact:
    """Something outside the engine, or a loop inside it, and what is wrong with it ("" when it is up)."""

    name: str
    error: str


@dataclass(frozen=True, slots=True)
class GitFact:
    """A release's workload that `owner` keeps in a cluster as Git has it, and the change in Git that takes it out."""

    env: str
    service: str
    release: str
    name: str
    owner: str
    patch: str


@dataclass(frozen=True, slots=True)
class DriftFact:
    """An alias in the registry that another hand moved: `found` ("" = gone) where we left `expected`.

    It happened between `before` (None: since the engine has looked) and `seen_at`; `maker` made the version found.
    """

    model: str
    alias: str
    expected: str
    found: str
    before: float | None
    seen_at: float
    maker: str

    def says(self) -> str:
        """What happened, who as far as is known, and what to do."""
        now = f"points at version {self.found}" if self.found else "is gone"
        since = f"{datetime.fromtimestamp(self.before, UTC):%H:%M:%S}" if self.before is not None else "an earlier look"
        made = f"; version {self.found} was made by {self.maker}" if self.maker else ""
        return (
            f"{self.alias} of {self.model} {now} in the registry, and was left at version {self.expected}: another hand"
            f" moved it between {since} and {datetime.fromtimestamp(self.seen_at, UTC):%H:%M:%S} UTC (MLflow keeps no"
            f" author of an alias{made}). Traffic is as it was: set the alias right there, or deploy that version"
        )


@dataclass(frozen=True, slots=True)
class GlassFact:
    """Somebody went past the rules, and nobody else has acknowledged it."""

    id: int
    service: str
    env: str
    by: str
    reason: str
    passed: str


@dataclass(frozen=True, slots=True)
class Facts:
    """All that the rules look at, at the time `now`."""

    now: float
    slos: tuple[SloStatus, ...] = ()
    probes: tuple[ProbeFact, ...] = ()
    rollouts: tuple[RolloutFact, ...] = ()
    crash_loops: tuple[CrashLoopFact, ...] = ()
    adapters: tuple[AdapterFact, ...] = ()
    glasses: tuple[GlassFact, ...] = ()
    drifts: tuple[DriftFact, ...] = ()
    kept_in_git: tuple[GitFact, ...] = ()
    gateway_trouble: str = ""
    audit_trouble: str = ""
    backup_trouble: str = ""
    someone_is_paged: bool = True
    own: tuple[Firing, ...] = ()
    """What watches of our own have found: drift of texts, costs."""
    outside: tuple[Firing, ...] = ()
    """What another evaluator says holds."""
    rates_are_theirs: bool = False
    """Burn rates and the canary's traffic are Prometheus's to evaluate: each alert has one evaluator."""
