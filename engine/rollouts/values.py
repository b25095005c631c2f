"""What the machine reads and answers: a rollout's row, the facts of the world, and a move. Frozen values, no decisions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engine.rollouts.effects import Effect
from engine.rollouts.verdict import Verdict
from state.words import PauseReason, RolloutState


@dataclass(frozen=True, slots=True)
class StepSpec:
    """One element of the strategy: `kind` is weight, pause, approval or analysis; `value` its percent, seconds or count."""

    kind: str
    value: float

    @property
    def weight(self) -> int:
        """The canary's share in percent; 0 for steps that set none."""
        return int(self.value) if self.kind == "weight" else 0


@dataclass(frozen=True, slots=True)
class RolloutNow:
    """A rollout's row, as the machine reads it."""

    id: str
    state: RolloutState
    step: int
    steps: tuple[StepSpec, ...]
    from_release: str | None
    to_release: str
    resume_state: RolloutState | None = None
    pause_reason: str = ""
    approvals_needed: int = 0
    auto_promote: bool = True
    replicas: int = 1
    prepare_timeout_s: float = 600.0
    successor: str = ""
    """The release that is rolled out once this rollout's traffic is back on stable; "" when none waits."""
    approval_timeout_s: float = 24 * 3600.0
    was_promoted: bool = False
    """Traffic and aliases have moved to `to_release` already, so that a rollback must move them back."""

    @property
    def overwrites(self) -> bool:
        """A person has resumed it after a foreign edit: its own weights are set again, over whatever is there."""
        return self.state is not RolloutState.PAUSED and self.pause_reason == PauseReason.DRIFT

    @property
    def weight(self) -> int:
        """The weight of the newest weight step reached."""
        reached = [s.weight for s in self.steps[: self.step + 1] if s.kind == "weight"]
        return reached[-1] if reached else 0


@dataclass(frozen=True, slots=True)
class ReplicaFacts:
    """Replicas of one release: how many answer, why they cannot, and whether they generated a token."""

    ready: int = 0
    crash_loop: str = ""
    broken: str = ""
    """A permanent defect, such as a file whose digest is wrong."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """An effect that does not come about: how often it was tried, for how long, and what it met."""

    attempts: int
    since_s: float
    is_outage: bool
    """Whoever should do it is away; otherwise it refuses, or what it did does not read back."""
    says: str
    is_capacity: bool = False
    """This host has no room for what it asks: processes, memory, descriptors."""


@dataclass(frozen=True, slots=True)
class Facts:
    """The world, as read just now."""

    state_s: float
    """Seconds in this state, immune to clock jumps (I9)."""
    step_s: float
    stable: ReplicaFacts
    canary: ReplicaFacts
    weights: Mapping[str, int] | None
    """release → percent as every gateway worker has it; None when they disagree or cannot be asked."""
    verdict: Verdict | None = None
    approvals: int = 0
    rejections: int = 0
    tracks: Mapping[str, int] | None = None
    """release → percent as the store's tracks say: what any gateway that starts is given. None: not asked."""
    is_held: bool = False
    is_frozen: bool = False
    known: tuple[Mapping[str, int], ...] = ()
    """Weights that this rollout has set, oldest first: any other is a foreign hand's."""
    trouble: Trouble | None = None


@dataclass(frozen=True, slots=True)
class Move:
    """What to do now. `state` equal to the rollout's own (and `step` too) means: stay, with `effects` still wanted."""

    state: RolloutState
    step: int
    effects: tuple[Effect, ...] = ()
    message: str = ""
    pause_reason: str = ""
    resume_state: RolloutState | None = None
    consumes_verdict: bool = False
    restarts_step: bool = False
