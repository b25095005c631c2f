"""What the simulated world of a rollout is made of: rows, intents, replicas, and the notes of what happened. Values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.rollouts.effects import Effect
from engine.rollouts.values import Facts, Move, RolloutNow, StepSpec
from state import clock
from state.words import Strategy


@dataclass(frozen=True, slots=True)
class Game:
    """What does not change in one life: the policy and whether a release is live at the start; `then`, of later rollouts."""

    steps: tuple[StepSpec, ...]
    replicas: int = 1
    approvals: int = 0
    auto_promote: bool = True
    has_stable: bool = True
    prepare_timeout_s: float = 60.0
    warm_hold_s: float = 120.0
    strategy: Strategy = Strategy.CANARY
    has_baseline: bool = False
    surge: int = 1
    unavailable: int = 0
    then: tuple[Game, ...] = ()

    def policy(self, number: int) -> Game:
        """What the life's rollout `number` (from 0) goes by; they take turns."""
        return (self, *self.then)[number % (1 + len(self.then))]


@dataclass(slots=True)
class Replicas:
    """The replicas of one release, as its runtime has them."""

    wanted: int = 0
    ready: int = 0
    waiting_s: float = 0.0
    draining: int = 0
    """Processes that finish their streams, and hold their memory."""
    draining_s: float = 0.0
    crash_loop: str = ""
    broken: str = ""

    @property
    def alive(self) -> int:
        """Processes that hold memory, or will again."""
        return self.wanted + self.draining


@dataclass(slots=True)
class Intent:
    """A row of the journal."""

    key: str
    rollout_id: str
    effect: Effect
    state: str = "pending"
    done_at: float = 0.0
    attempts: int = 0
    failed_since: float | None = None
    is_outage: bool = False


@dataclass(slots=True)
class Row:
    """A rollout's row with its clocks. `true_*` are the simulation's own, which no clock step touches."""

    now: RolloutNow
    since: clock.Moment
    true_since: float
    revision: int = 1
    step_since: clock.Moment | None = None
    true_step_since: float = 0.0
    approvals: int = 0
    rejections: int = 0
    warm_until_true: float = 0.0
    waits: Game | None = None
    """What is rolled out once this one has gone back: the row's `successor`, by this policy."""
    reboots: int = 0
    """Reboots since the present state was entered: with one, elapsed time is the wall clock's."""


@dataclass(frozen=True, slots=True)
class Moved:
    """A state change that was committed. `facts` is None when a person asked for it."""

    before: RolloutNow
    move: Move
    facts: Facts | None
    true_step_s: float
    true_state_s: float
    has_rebooted: bool
    verdict_of: tuple[str, int] | None
    step_clock: int


@dataclass(frozen=True, slots=True)
class Routed:
    """A gateway worker was given weights."""

    before: dict[str, int]
    after: dict[str, int]
    meant: dict[str, int]
    """What the tracks said before: a worker that had lost it is only given back what it should have."""
    answered: frozenset[str]
    """Releases that had a ready replica when this was decided."""
    ready: Mapping[str, int] = field(default_factory=dict)
    """How many, where the simulation knows."""
    mover: RolloutNow | None = None
    """The rollout that was active then."""


@dataclass(frozen=True, slots=True)
class Scaled:
    """A release was given fewer or more replicas."""

    release_id: str
    before: int
    after: int
    weights: tuple[dict[str, int], ...]
    intended: bool
    alive: Mapping[str, int] = field(default_factory=dict)
    """release → processes that hold memory, this change included."""
    wanted: int = 0
    """Replicas that the mover's two releases shall have."""
    ready: Mapping[str, int] = field(default_factory=dict)
    mover: RolloutNow | None = None


Happened = Moved | Routed | Scaled


class Lost(Exception):
    """An effect failed, as its caller sees it."""

    def __init__(self, *, is_outage: bool = False) -> None:
        super().__init__()
        self.is_outage = is_outage


class Crash(BaseException):
    """The engine is killed here."""
