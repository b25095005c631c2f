"""`[policy.NAME]`: how releases are rolled out: the strategy, its steps, and how evidence becomes a verdict."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from state.config_types import Duration, Table
from state.words import Strategy


class Step(Table):
    """One element of a strategy: exactly one of the fields."""

    weight: Annotated[int, Field(ge=1, le=100)] | None = None
    mirror: Annotated[int, Field(ge=1, le=100)] | None = None
    pause: Duration | None = None
    approval: int | None = Field(default=None, ge=1)
    analysis: bool | None = None
    header: str | None = None

    @model_validator(mode="after")
    def _one(self) -> Step:
        if len(self.model_fields_set) != 1:
            raise ValueError("a step has exactly one of weight, mirror, pause, approval, analysis, header")
        return self

    @property
    def kind(self) -> str:
        """Which of the fields it is."""
        return next(iter(self.model_fields_set))


class JudgeConfig(Table):
    """How evidence becomes a verdict. DESIGN §6; `engine/rollouts/JUDGE.md` explains the numbers."""

    margin: float = Field(default=1.0, gt=0)
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    min_requests: int = Field(default=200, ge=1)
    max_minutes: float = Field(default=30, gt=0)
    no_data_after: Duration = 60.0
    guardrails: tuple[Literal["crash_loop", "bad_windows", "safety"], ...] = ("crash_loop", "bad_windows")
    bad_window: Duration = 10.0
    quality: bool = True
    """Judge quality where the service has checks, `[service.NAME.quality]`."""
    cost: bool = True
    """Judge cost where the service has a ceiling, `[service.NAME.cost]`."""


class Policy(Table):
    """A named way to roll out. A running rollout keeps the policy it began with."""

    strategy: Strategy = Strategy.CANARY
    steps: tuple[Step, ...] = (Step(weight=5), Step(weight=25), Step(weight=50), Step(weight=100))
    judge: JudgeConfig = JudgeConfig()
    approvals: int = Field(default=1, ge=0)
    approval_timeout: Duration = 24 * 3600.0
    warm_hold: Duration = 1800.0
    warm_replicas: int | None = Field(default=None, ge=0)
    """Replicas of the release before that stay warm for `warm_hold`; not set: all. Fewer cost less, and a rollback waits."""
    prepare_timeout: Duration = 600.0
    auto_promote: bool = True

    @model_validator(mode="after")
    def _ends_at_full(self) -> Policy:
        weights = [s.weight for s in self.steps if s.weight is not None]
        if weights != sorted(set(weights)):
            raise ValueError("weights must rise from step to step")
        if not weights or weights[-1] != 100:
            raise ValueError("the last weight must be 100")
        return self
