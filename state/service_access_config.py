"""`[service.NAME.cache]` and `[service.NAME.safety]`: which answers may be given again, what prompts and answers must not hold."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from state.config_types import Duration, Name, Table

PiiKind = Literal["email", "phone", "card", "iban", "ssn", "ipv4"]


class AnswerCacheConfig(Table):
    """Answers of this service that the gateway may give again; off until `ttl` is set."""

    ttl: Duration = Field(default=0.0, ge=0)
    when: Literal["deterministic", "always"] = "deterministic"
    shared: bool = False
    max_answer_bytes: int = Field(default=256 << 10, ge=256)

    def for_table(self) -> dict[str, Any] | None:
        """As the routing table has it; None when off."""
        if not self.ttl:
            return None
        return {
            "ttl_s": self.ttl,
            "is_always": self.when == "always",
            "is_shared": self.shared,
            "max_answer_bytes": self.max_answer_bytes,
        }


class SafetyRuleConfig(Table):
    """One check: exactly one of patterns, pii, max_chars, url, command says what it does."""

    on: Literal["prompt", "answer", "both"] = "both"
    action: Literal["block", "redact", "flag"] = "block"
    patterns: tuple[str, ...] = ()
    pii: tuple[PiiKind, ...] = ()
    max_chars: int = Field(default=0, ge=0)
    url: str = ""
    command: tuple[str, ...] = ()
    timeout: Duration = Field(default=1.0, gt=0, le=60)
    on_failure: Literal["closed", "open"] = "closed"

    @field_validator("patterns")
    @classmethod
    def _compile(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        return patterns

    @model_validator(mode="after")
    def _one_kind(self) -> SafetyRuleConfig:
        given = [name for name in ("patterns", "pii", "max_chars", "url", "command") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError("a check has exactly one of patterns, pii, max_chars, url, command")
        if self.max_chars and self.action == "redact":
            raise ValueError("a length cannot be redacted: block or flag it")
        if self.url and not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url = {self.url!r} must begin with http:// or https://")
        return self

    def for_table(self, name: str) -> dict[str, Any]:
        """As the routing table has it."""
        kinds = {"patterns": "regex", "pii": "pii", "max_chars": "max_chars", "url": "http", "command": "command"}
        return {
            "name": name,
            "kind": next(kind for field, kind in kinds.items() if getattr(self, field)),
            "on": self.on,
            "action": self.action,
            "patterns": list(self.patterns or self.pii),
            "max_chars": self.max_chars,
            "url": self.url,
            "command": list(self.command),
            "timeout_s": self.timeout,
            "is_fail_open": self.on_failure == "open",
        }


class SafetyConfig(Table):
    """What is looked for in prompts and answers: `[service.NAME.safety.rule.RULE]`, in the file's order."""

    window_chars: int = Field(default=200, ge=1, le=100_000)
    rule: dict[Name, SafetyRuleConfig] = Field(default_factory=dict)

    def for_table(self) -> dict[str, Any] | None:
        """As the routing table has it; None when there is no rule."""
        if not self.rule:
            return None
        rules = [rule.for_table(name) for name, rule in self.rule.items()]
        return {"rules": rules, "window_chars": self.window_chars}
