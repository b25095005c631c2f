"""What the machine reads and answers: a rollout's row, the facts of the world, and a move. Frozen values, no decisions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engine.rollouts.effects import Effect
from engine.rollouts.verdict import Verdict
from state.words import RolloutState


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
    was_promoted: bool = False
    """Traffic and aliases have moved to `to_release` already, so that a rollback must move them back."""

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
