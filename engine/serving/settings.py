"""`serving.json`: how a release wants to be served. An override in the spec's payload wins, field by field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from state.words import ConfigError


class FaultSettings(BaseModel):
    """Trouble made on purpose, for drills and demonstrations: see fault.py."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    latency_ms: float = Field(default=0.0, ge=0.0, le=60_000.0)
    error_rate: float = Field(default=0.0, ge=0.0, le=1.0)
    seed: int = 0


class ServingSettings(BaseModel):
    """The serving configuration of a release. Every field has a default, so `{}` is a whole one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    backend: Literal["torch"] = "torch"
    """What computes: ours, on torch. The settings of `vllm` and `command` are in engine/serving/backend."""
    max_batch: int = Field(default=8, ge=1, le=1024)
    """Sequences that decode together; each has a slot in the KV cache."""
    max_batch_tokens: int = Field(default=256, ge=1)
    """Tokens computed in one step, prompts and new ones together. A longer prompt is computed in chunks."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    max_queue: int = Field(default=64, ge=1)
    """Requests that may wait for a slot; one more is answered 503 with Retry-After."""
    max_inflight_per_user: int = Field(default=0, ge=0)
    """Requests one `user` may have here at once; one more is answered 429. 0: no limit."""
    request_deadline_s: float = Field(default=60.0, gt=0.0)
    stuck_after_s: float = Field(default=10.0, gt=0.0)
    """Seconds without a heartbeat, or with work but no step, after which /ready says 503."""
    drain_accept_s: float = Field(default=1.0, ge=0.0)
    """Seconds after SIGTERM in which requests are still taken, so that a gateway can see /ready first."""
    drain_deadline_s: float = Field(default=30.0, ge=0.0)
    """Seconds after SIGTERM in which running requests may finish."""
    fault: FaultSettings | None = None

    @model_validator(mode="after")
    def _every_slot_can_decode(self) -> ServingSettings:
        if self.max_batch_tokens < self.max_batch:
            raise ValueError("max_batch_tokens must be at least max_batch, or a full batch could not take one step")
        return self


def serving_settings(release: Mapping[str, Any], overrides: Mapping[str, Any]) -> ServingSettings:
    """The settings in effect. Raises ConfigError naming the field that cannot be meant."""
    try:
        return ServingSettings.model_validate({**release, **overrides})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "serving"
        raise ConfigError(
            f"the serving configuration's {field} cannot be used: {first['msg']}",
            hint="correct serving.json of the release, or the service's serving table in airboss.toml",
        ) from error
