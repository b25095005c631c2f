"""`[service.NAME.quality]` and `[service.NAME.cost]`: what the gateway looks for in live answers, and what they may cost."""

from __future__ import annotations

import re
from typing import Any

from pydantic import Field, field_validator, model_validator

from state.config_types import Duration, Name, Table


class QualityCheckConfig(Table):
    """One check of an answer's text: exactly one of its kinds. An answer that fails any check is a bad one."""

    matches: str = ""
    """A regular expression that must be found."""
    forbids: str = ""
    """A regular expression that must not be found."""
    json_object: bool = False
    """The text must be a JSON object or array."""
    refusal: bool = False
    """The text must not be a refusal ("I'm sorry, but I can't …")."""
    min_chars: int = Field(default=0, ge=0)
    max_chars: int = Field(default=0, ge=0)
    url: str = ""
    command: tuple[str, ...] = ()
    timeout: Duration = Field(default=5.0, gt=0, le=60)

    @field_validator("matches", "forbids")
    @classmethod
    def _compile(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        return pattern

    @property
    def kind(self) -> str:
        """Which of the kinds it is."""
        return next(iter(self._kinds()), "")

    def _kinds(self) -> list[str]:
        has_length = bool(self.min_chars or self.max_chars)
        given = {
            "matches": self.matches,
            "forbids": self.forbids,
            "json": self.json_object,
            "refusal": self.refusal,
            "length": has_length,
            "http": self.url,
            "command": self.command,
        }
        return [kind for kind, value in given.items() if value]

    @model_validator(mode="after")
    def _one_kind(self) -> QualityCheckConfig:
        if len(self._kinds()) != 1:
            raise ValueError(
                "a check has exactly one of matches, forbids, json_object, refusal, min_chars/max_chars, url, command"
            )
        if self.max_chars and self.max_chars < self.min_chars:
            raise ValueError(f"max_chars = {self.max_chars} is below min_chars = {self.min_chars}")
        if self.url and not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url = {self.url!r} must begin with http:// or https://")
        return self

    def for_table(self, name: str) -> dict[str, Any]:
        """As the routing table has it."""
        return {
            "name": name,
            "kind": self.kind,
            "pattern": self.matches or self.forbids,
            "min_chars": self.min_chars,
            "max_chars": self.max_chars,
            "url": self.url,
            "command": list(self.command),
            "timeout_s": self.timeout,
        }


class QualityConfig(Table):
    """Checks of live answers, `[service.NAME.quality.check.CHECK]`; `share` percent of the checked ones must be good."""

    sample: float = Field(default=100.0, gt=0, le=100)
    """Percent of answers that are looked at, after the user has them."""
    share: float = Field(default=95.0, gt=0, lt=100)
    concurrency: int = Field(default=4, ge=1, le=64)
    queue: int = Field(default=64, ge=1, le=10_000)
    drift: float = Field(default=0.0, ge=0, le=100)
    """Percent of requests whose text's statistics are counted, to be compared with the training snapshot; 0 is off."""
    drift_kl: float = Field(default=0.5, gt=0)
    """Alert when the characters' KL divergence from the training text is above this, in nats, beyond chance."""
    drift_psi: float = Field(default=0.25, gt=0)
    drift_min_texts: int = Field(default=200, ge=30)
    check: dict[Name, QualityCheckConfig] = Field(default_factory=dict)

    @property
    def limit(self) -> float:
        """The largest share of checked answers that may fail, 0..1."""
        return 1 - self.share / 100

    def for_table(self) -> dict[str, Any] | None:
        """As the routing table has it; None when there is no check and drift is not watched."""
        if not self.check and not self.drift:
            return None
        checks = [check.for_table(name) for name, check in self.check.items()]
        return {
            "checks": checks,
            "sample": self.sample,
            "concurrency": self.concurrency,
            "queue": self.queue,
            "drift": self.drift,
        }


class CostConfig(Table):
    """What a replica's hour costs, and the ceiling that `share` percent of the requests must keep under."""

    usd_per_hour: float = Field(default=0.0, ge=0)
    """Of one replica: its GPU, or its share of a machine."""
    max_usd_per_request: float = Field(default=0.0, ge=0)
    max_usd_per_1k_tokens: float = Field(default=0.0, ge=0)
    share: float = Field(default=95.0, gt=0, lt=100)

    @model_validator(mode="after")
    def _priced(self) -> CostConfig:
        if (self.max_usd_per_request or self.max_usd_per_1k_tokens) and not self.usd_per_hour:
            raise ValueError("a ceiling needs usd_per_hour, the price of a replica's hour")
        return self

    @property
    def limit(self) -> float:
        """The largest share of requests that may cost more than the ceiling, 0..1."""
        return 1 - self.share / 100

    @property
    def has_ceiling(self) -> bool:
        """There is something to judge."""
        return bool(self.max_usd_per_request or self.max_usd_per_1k_tokens)

    def for_table(self) -> dict[str, Any] | None:
        """As the routing table has it; None without a ceiling."""
        if not self.has_ceiling:
            return None
        return {
            "usd_per_hour": self.usd_per_hour,
            "max_usd_per_request": self.max_usd_per_request,
            "max_usd_per_1k_tokens": self.max_usd_per_1k_tokens,
        }
