"""`[policy.NAME]`: how releases are rolled out: the strategy, its steps, and how evidence becomes a verdict."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from state.config_types import Duration, Table
from state.words import Strategy

_MATCH = re.compile(r"([A-Za-z0-9!#$%&'*+.^_`|~-]{1,64})\s*(?:[=:]\s*(\S(?:.{0,254}\S)?))?")
STEP_KINDS = ("weight", "mirror", "pause", "approval", "analysis", "header", "cookie")
UNWEIGHTED: dict[Strategy, str] = {
    Strategy.BLUE_GREEN: "blue-green switches all traffic at once",
    Strategy.ROLLING: "a rolling update's weights follow its replicas",
    Strategy.SWAP: "a swap's weight follows its replicas",
    Strategy.SHADOW: "a shadow gets copies and no users",
}


def split_match(text: str) -> tuple[str, str | None]:
    """`x-beta=1` (or `x-beta: 1`) → its name, and the value it must have; `x-beta` alone must only be there."""
    found = _MATCH.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is not NAME=VALUE or NAME, as in 'x-beta=1'")
    return found[1], found[2]


class Step(Table):
    """One element of a strategy: exactly one of the fields."""

    weight: Annotated[int, Field(ge=1, le=100)] | None = None
    mirror: Annotated[int, Field(ge=1, le=100)] | None = None
    pause: Duration | None = None
    approval: int | None = Field(default=None, ge=1)
    analysis: bool | None = None
    header: str | None = None
    cookie: str | None = None

    @field_validator("header", "cookie")
    @classmethod
    def _is_match(cls, value: str | None) -> str | None:
        if value is not None:
            split_match(value)
        return value

    @model_validator(mode="after")
    def _one(self) -> Step:
        if len(self.model_fields_set) != 1:
            raise ValueError(f"a step has exactly one of {', '.join(STEP_KINDS)}")
        return self

    @property
    def kind(self) -> str:
        """Which of the fields it is."""
        return next(iter(self.model_fields_set))


def parse_steps(given: Sequence[object]) -> tuple[Step, ...]:
    """`[5, "mirror=10", "pause=10m", "header=x-beta=1"]` → steps; a bare number is a weight. Raises ValueError."""
    steps = []
    for one in given:
        kind, _, value = str(one).partition("=")
        if kind.strip().removesuffix("%").isdigit() and not value:
            kind, value = "weight", kind.strip().removesuffix("%")
        if kind not in STEP_KINDS:
            raise ValueError(f"{one!r}: a step is a weight in percent, or one of {', '.join(STEP_KINDS)} with =VALUE")
        said: object = value.removesuffix("%") if kind in ("weight", "mirror") else value
        if kind == "analysis":
            said = True
        try:
            steps.append(Step.model_validate({kind: said}))
        except ValidationError as error:
            raise ValueError(f"{one!r}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from error
    return tuple(steps)


class JudgeConfig(Table):
    """How evidence becomes a verdict. DESIGN §6; `engine/rollouts/JUDGE.md` explains the numbers."""

    margin: float = Field(default=1.0, gt=0)
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    min_requests: int = Field(default=200, ge=1)
    max_minutes: float = Field(default=30, gt=0)
    no_data_after: Duration = 60.0
    guardrails: tuple[Literal["crash_loop", "bad_windows", "safety"], ...] = ("crash_loop", "bad_windows")
    bad_window: Duration = 10.0
    method: Literal["sequential", "z"] = "sequential"
    """How harm is found: at every look, or by one z-test at `planned_requests` canary requests (seed 3.10)."""
    planned_requests: int = Field(default=0, ge=0)
    latency: bool = True
    """Judge the share of slow requests; false where the metrics source does not count them (`airboss help prometheus`)."""
    quality: bool = True
    """Judge quality where the service has checks, `[service.NAME.quality]`."""
    cost: bool = True
    """Judge cost where the service has a ceiling, `[service.NAME.cost]`."""

    @model_validator(mode="after")
    def _planned(self) -> JudgeConfig:
        if (self.method == "z") != bool(self.planned_requests):
            raise ValueError(
                'method = "z" and planned_requests go together: one look, at so many canary requests, decided before '
                "(`airboss help judge` has the sample sizes)"
            )
        return self


class RollingConfig(Table):
    """How replicas make room: how many more, and how many fewer, than `replicas` there may be on the way.

    Each batch is judged like a weight; with `settle` it only has to stand so long without a FAIL.
    """

    surge: int = Field(default=1, ge=0, le=64)
    unavailable: int = Field(default=0, ge=0, le=64)
    settle: Duration | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _can_move(self) -> RollingConfig:
        if not self.surge and not self.unavailable:
            raise ValueError(
                "with surge = 0 and unavailable = 0 no replica can be replaced; one of them must be 1 or more"
            )
        return self


class ShadowConfig(Table):
    """What of the copies is judged beside errors and latency, and what a shadow rollout does when it has passed."""

    min_pairs: int | None = Field(default=None, ge=1, le=20_000)
    """No more than are kept (`engine.rollouts.pairs.MOST_PAIRS`)."""
    max_different: float | None = Field(default=None, gt=0, lt=100)
    different_from: float = Field(default=0.5, ge=0, lt=1)
    max_length_off: float | None = Field(default=None, gt=0, lt=100)
    length_factor: float = Field(default=2.0, gt=1)
    then: Literal["wait", "promote"] = "wait"


class Policy(Table):
    """A named way to roll out. A running rollout keeps the policy it began with."""

    strategy: Strategy = Strategy.CANARY
    steps: tuple[Step, ...] = (Step(mirror=5), Step(weight=5), Step(weight=25), Step(weight=50), Step(weight=100))
    """A canary's; where none are named the other strategies have their own (`engine/rollouts/STRATEGIES.md`)."""
    judge: JudgeConfig = JudgeConfig()
    approvals: int = Field(default=1, ge=0)
    approval_timeout: Duration = 24 * 3600.0
    warm_hold: Duration = 1800.0
    warm_replicas: int | None = Field(default=None, ge=0)
    """Replicas of the release before that stay warm for `warm_hold`; not set: all. Fewer cost less, and a rollback waits."""
    prepare_timeout: Duration = 600.0
    auto_promote: bool = True
    baseline: bool = False
    affinity: str = ""
    rolling: RollingConfig = RollingConfig()
    shadow: ShadowConfig = ShadowConfig()

    @field_validator("affinity")
    @classmethod
    def _is_affinity(cls, value: str) -> str:
        if value and not re.fullmatch(r"client|(?:header|cookie) [A-Za-z0-9_-]{1,64}", value):
            raise ValueError(f"{value!r} is not 'client', 'header NAME' or 'cookie NAME'")
        return value

    @model_validator(mode="after")
    def _steps_fit(self) -> Policy:
        if "steps" in self.model_fields_set or self.strategy is Strategy.CANARY:
            check_steps(self.strategy, self.steps)
        if self.baseline and self.strategy is not Strategy.CANARY:
            raise ValueError(f"baseline stands beside a canary; {self.strategy} has none")
        return self


def check_steps(strategy: Strategy, steps: tuple[Step, ...]) -> None:
    """Raise ValueError for steps that the strategy cannot play."""
    weights = [s.weight for s in steps if s.weight is not None]
    if strategy in UNWEIGHTED and weights and not (strategy is Strategy.BLUE_GREEN and weights == [100]):
        raise ValueError(f"{UNWEIGHTED[strategy]}: take the weights out of its steps")
    if strategy is Strategy.CANARY:
        if weights != sorted(set(weights)):
            raise ValueError("weights must rise from step to step")
        if not weights or weights[-1] != 100:
            raise ValueError("the last weight must be 100")
    kinds = [s.kind for s in steps]
    if strategy in (Strategy.ROLLING, Strategy.SWAP) and (odd := set(kinds) - {"weight"}):
        raise ValueError(f"{UNWEIGHTED[strategy]}; it makes its own steps and takes no {min(odd)}")
    if strategy is Strategy.SHADOW and (odd := set(kinds) - {"mirror", "pause", "approval", "analysis"}):
        raise ValueError(f"{UNWEIGHTED[strategy]}: no {min(odd)} step")
    first_weight = next((i for i, kind in enumerate(kinds) if kind == "weight"), len(kinds))
    if "mirror" in kinds[first_weight:]:
        raise ValueError("a mirror step comes before the first weight: afterwards users have the release itself")
