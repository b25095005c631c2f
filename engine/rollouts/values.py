"""What the machine reads and answers: a rollout's row, the facts of the world, and a move. Frozen values, no decisions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from adapters.routing import PREVIEW_HEADER
from engine.rollouts.effects import PLAIN, Effect, Extras
from engine.rollouts.verdict import Verdict
from state.words import PauseReason, RolloutState, Strategy


def preview_rule(release_id: str) -> str:
    """The header by which a person reaches a release that gets no traffic yet."""
    return f"header {PREVIEW_HEADER}={release_id}"


@dataclass(frozen=True, slots=True)
class StepSpec:
    """One element of the strategy: `kind` is weight, pause, approval, analysis, mirror, header or cookie.

    `value` is its percent, seconds or count; `text` what a header or cookie must be; `replicas` how many of the new
    release carry the weight (rolling and swap); `settle_s` lets time pass in the place of a verdict.
    """

    kind: str
    value: float
    text: str = ""
    replicas: int = 0
    settle_s: float | None = None

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
    was_going_back: bool = False
    """It was on its way back already when the successor came: it is not for that one that it ends."""
    met_traffic: bool = True
    """Some request, or a copy of one, was meant for the release; known of a rollout that goes back."""
    approval_timeout_s: float = 24 * 3600.0
    was_promoted: bool = False
    """Traffic and aliases have moved to `to_release` already, so that a rollback must move them back."""
    strategy: Strategy = Strategy.CANARY
    surge: int = 1
    """Rolling: replicas there may be more than `replicas` on the way."""
    unavailable: int = 0
    """Rolling and swap: replicas there may be fewer."""
    has_baseline: bool = False
    """Fresh copies of stable get the canary's weight beside it, and are what it is compared with."""
    affinity: str = ""

    @property
    def overwrites(self) -> bool:
        """A person has resumed it after a foreign edit: its own weights are set again, over whatever is there."""
        return self.state is not RolloutState.PAUSED and self.pause_reason == PauseReason.DRIFT

    @property
    def weight(self) -> int:
        """The weight of the newest weight step reached."""
        reached = [s.weight for s in self.steps[: self.step + 1] if s.kind == "weight"]
        return reached[-1] if reached else 0

    @property
    def mirror_pct(self) -> int:
        """The share of requests that is copied to the new release: from a mirror step to the next that gives it users."""
        kinds = ("mirror", "weight", "header", "cookie")
        reached = [s for s in self.steps[: self.step + 1] if s.kind in kinds]
        return int(reached[-1].value) if reached and reached[-1].kind == "mirror" else 0

    @property
    def rules(self) -> tuple[str, ...]:
        """What sends a request to the new release whatever its weight: header and cookie steps reached, and a preview."""
        if self.weight >= 100:
            return ()
        preview = (preview_rule(self.to_release),) if self.strategy is Strategy.BLUE_GREEN else ()
        named = (f"{s.kind} {s.text}" for s in self.steps[: self.step + 1] if s.kind in ("header", "cookie"))
        return (*preview, *named)

    @property
    def replaces(self) -> bool:
        """Replicas of the one release make room for those of the other, instead of standing beside them."""
        return self.strategy in (Strategy.ROLLING, Strategy.SWAP) and self.from_release is not None

    @property
    def replaced_before(self) -> int:
        """How many replicas the steps before this one have replaced."""
        return max((s.replicas for s in self.steps[: self.step]), default=0)

    @property
    def left_after(self) -> int:
        """How many of the old replicas stay once this step's weight is set.

        After the last step as many as the surge allows: until the new release is verified they are the quick way back.
        """
        left = self.replicas - self.steps[self.step].replicas
        return left or min(self.surge, self.replicas - self.replaced_before)

    @property
    def baseline_weight(self) -> int:
        """The canary's own weight, where there is a baseline and both find room."""
        return self.weight if self.has_baseline and self.weight * 2 <= 100 else 0

    @property
    def standing(self) -> RolloutState:
        """The state, or the one it will resume to."""
        return self.resume_state or self.state if self.state is RolloutState.PAUSED else self.state

    @property
    def weight_before_gate(self) -> int | None:
        """The most that the steps before the next approval give; None when no approval is still to come."""
        gates = [index for index, step in enumerate(self.steps) if index > self.step and step.kind == "approval"]
        return max((step.weight for step in self.steps[: gates[0]]), default=0) if gates else None


@dataclass(frozen=True, slots=True)
class ReplicaFacts:
    """Replicas of one release: how many answer, why they cannot, and whether they generated a token."""

    ready: int = 0
    crash_loop: str = ""
    broken: str = ""
    """A permanent defect, such as a file whose digest is wrong."""
    lacks: str = ""
    """What of their place's they wait for: room, a quota, an image. Never a fault of the release's."""
    alive: int = 0
    """Processes that hold memory or will again: those that are starting, that finish their streams, or that died and are
    to be started anew."""


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
    """Seconds in this state, or since a hold in it ended: what it had to act in. Immune to clock jumps (I9)."""
    step_s: float
    stable: ReplicaFacts
    canary: ReplicaFacts
    weights: Mapping[str, int] | None
    """release → percent as every gateway worker has it; None when they disagree or cannot be asked."""
    extras: Extras = PLAIN
    """What else the route has, as every worker has it."""
    baseline: ReplicaFacts = ReplicaFacts()
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
    skips_gates: bool = False
    """The batches from this step on stand no longer than they take, and the promotion waits for nobody."""
