"""`[service.NAME.routing]`: how the gateway treats a service's requests. `engine/gateway/README.md` explains each.

The names under which it goes into the routing table are the aliases (`adapters/routing.py`).
"""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, model_validator

from state.config_types import Duration, Name, Table

RequestClass = Literal["interactive", "batch", "background"]
Live = Literal["stable", "canary", "baseline"]


class TrackRuleConfig(Table):
    """Requests whose header or cookie fits go to this track, before weights."""

    track: Live
    header: str = ""
    cookie: str = ""
    equals: str | None = None
    matches: str | None = None
    present: bool | None = None
    at_zero: bool = False

    @model_validator(mode="after")
    def _one_of_each(self) -> TrackRuleConfig:
        if bool(self.header) == bool(self.cookie):
            raise ValueError("a rule names a header or a cookie")
        if sum(value is not None for value in (self.equals, self.matches, self.present)) != 1:
            raise ValueError("a rule has exactly one of equals, matches, present")
        if self.matches is not None:
            try:
                re.compile(self.matches)
            except re.error as error:
                raise ValueError(f"matches = {self.matches!r} is not a regular expression: {error}") from error
        return self


class SplitConfig(Table):
    """How weights divide requests: at random, or by hash of a header or cookie (else of who asks)."""

    by: Literal["random", "hash"] = "random"
    header: str = ""
    cookie: str = ""


class StickyConfig(Table):
    """A session cookie the gateway sets, so that a session stays on its track; none while the name is empty."""

    cookie: str = Field(default="", pattern=r"^[A-Za-z0-9_-]{0,64}$")
    ttl: Duration = Field(default=86_400.0, gt=0, serialization_alias="ttl_s")


class MirrorConfig(Table):
    """The share of requests (percent) copied to the shadow track, and what copies may use of one worker."""

    share: float = Field(default=0.0, ge=0, le=100)
    queue: int = Field(default=64, ge=1, le=10_000)
    concurrency: int = Field(default=4, ge=1, le=256)
    deadline: Duration = Field(default=30.0, gt=0, serialization_alias="deadline_s")


class RetryConfig(Table):
    """How much sent work may be asked for again: a percent of the window's requests, and a minimum."""

    budget_pct: float = Field(default=20.0, ge=0, le=100)
    minimum: int = Field(default=3, ge=0)
    window: Duration = Field(default=10.0, ge=1, serialization_alias="window_s")
    answer_timeout: Duration = Field(default=0.0, ge=0, serialization_alias="answer_timeout_s")


class BreakerConfig(Table):
    """When one replica is left out though it answers pings; 0 turns a check off."""

    consecutive_5xx: int = Field(default=5, ge=0)
    consecutive_breaks: int = Field(default=3, ge=0)
    success_gap_pct: float = Field(default=30.0, ge=0, le=100)
    min_requests: int = Field(default=50, ge=1)
    interval: Duration = Field(default=10.0, gt=0, serialization_alias="interval_s")
    ejection: Duration = Field(default=5.0, gt=0, serialization_alias="ejection_s")
    ejection_max: Duration = Field(default=300.0, gt=0, serialization_alias="ejection_max_s")
    max_ejected_pct: int = Field(default=50, ge=0, le=100)

    @model_validator(mode="after")
    def _longest_is_longest(self) -> BreakerConfig:
        if self.ejection > self.ejection_max:
            raise ValueError(f"ejection ({self.ejection:g} s) is longer than ejection_max ({self.ejection_max:g} s)")
        return self


class StageConfig(Table):
    """What changes once the route is `at` percent full: exactly one of the others."""

    at: int = Field(ge=1, le=100)
    cap_max_tokens: int = Field(default=0, ge=0)
    fallback: bool = False
    shed: RequestClass | Literal[""] = ""

    @model_validator(mode="after")
    def _one(self) -> StageConfig:
        if bool(self.cap_max_tokens) + self.fallback + bool(self.shed) != 1:
            raise ValueError("a stage has exactly one of cap_max_tokens, fallback, shed")
        return self


class LoadConfig(Table):
    """How full a route may be on one worker, by class of request (percents of max_inflight; 0: the worker's)."""

    max_inflight: int = Field(default=0, ge=0)
    interactive: int = Field(default=100, ge=1, le=100)
    batch: int = Field(default=80, ge=0, le=100)
    background: int = Field(default=50, ge=0, le=100)
    stages: tuple[StageConfig, ...] = ()


class TierConfig(Table):
    """A service that may answer for this one; passed over while it is `busy_at` percent full."""

    service: Name
    quality: int = 0
    cost: float = Field(default=0.0, ge=0)
    busy_at: int = Field(default=80, ge=1, le=100)


class ModelRuleConfig(Table):
    """Requests that fit go to service `to`; every condition given must hold, sizes mean "at least"."""

    to: Name
    prompt_chars: int | None = Field(default=None, ge=0)
    max_tokens: int | None = Field(default=None, ge=0)
    header: str = ""
    equals: str | None = None
    request_class: RequestClass | Literal[""] = ""

    @model_validator(mode="after")
    def _some(self) -> ModelRuleConfig:
        if self.prompt_chars is None and self.max_tokens is None and not self.header and not self.request_class:
            raise ValueError("a rule has at least one of prompt_chars, max_tokens, header, request_class")
        return self


class ChooseConfig(Table):
    """Which service answers: rules, then the policy over tiers; and who answers when that one cannot."""

    policy: Literal["", "quality_first", "cost_first"] = ""
    tiers: tuple[TierConfig, ...] = ()
    rules: tuple[ModelRuleConfig, ...] = ()
    fallback: tuple[Name, ...] = ()
    budget_tokens: int = Field(default=0, ge=0)
    budget_window: Duration = Field(default=3600.0, gt=0, serialization_alias="budget_window_s")

    @model_validator(mode="after")
    def _tiers_for_a_policy(self) -> ChooseConfig:
        if bool(self.policy) != bool(self.tiers):
            raise ValueError("policy and tiers belong together: name both or neither")
        return self

    def targets(self) -> tuple[str, ...]:
        """Every other service this may lead to."""
        return (*(tier.service for tier in self.tiers), *(rule.to for rule in self.rules), *self.fallback)


class RoutingConfig(Table):
    """How the gateway treats a service's requests, beyond the weights of a rollout."""

    rules: tuple[TrackRuleConfig, ...] = ()
    split: SplitConfig = SplitConfig()
    sticky: StickyConfig = StickyConfig()
    mirror: MirrorConfig = MirrorConfig()
    retry: RetryConfig = RetryConfig()
    breaker: BreakerConfig = BreakerConfig()
    load: LoadConfig = LoadConfig()
    choose: ChooseConfig = ChooseConfig()
    max_body_bytes: int = Field(default=0, ge=0)

    def for_table(self, workers: int) -> dict[str, Any]:
        """What differs from the defaults, as the routing table has it. A token budget is divided among `workers`."""
        wire = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        if self.choose.budget_tokens:
            wire["choose"]["budget_tokens"] = max(1, self.choose.budget_tokens // workers)
        return wire


def find_loop(targets: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    """A way from a service back to itself through `targets`, () when there is none."""
    done: set[str] = set()

    def walk(service: str, path: tuple[str, ...]) -> tuple[str, ...]:
        if service in path:
            return (*path[path.index(service) :], service)
        if service in done:
            return ()
        for following in targets.get(service, ()):
            if loop := walk(following, (*path, service)):
                return loop
        done.add(service)
        return ()

    return next((loop for service in sorted(targets) if (loop := walk(service, ()))), ())
