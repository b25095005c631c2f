"""`serving.json`: how a release wants to be served. An override in the spec's payload wins, field by field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from state.words import ConfigError

_Class = Literal["interactive", "batch", "background"]
_SHARES: dict[_Class, float] = {"interactive": 1.0, "batch": 0.5, "background": 0.25}


class FaultSettings(BaseModel):
    """Trouble made on purpose, for drills and demonstrations: see fault.py."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    latency_ms: float = Field(default=0.0, ge=0.0, le=60_000.0)
    error_rate: float = Field(default=0.0, ge=0.0, le=1.0)
    seed: int = 0


class TenantQuota(BaseModel):
    """What one tenant may have of one replica. 0: no limit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_inflight: int = Field(default=0, ge=0)
    tokens_per_minute: int = Field(default=0, ge=0)


class ServingSettings(BaseModel):
    """The serving configuration of a release. Every field has a default, so `{}` is a whole one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    backend: Literal["torch"] = "torch"
    """What computes: ours, on torch. The settings of `vllm` and `command` are in engine/serving/backend."""
    max_batch: int = Field(default=32, ge=1, le=1024)
    """Sequences that decode together."""
    max_batch_tokens: int = Field(default=1024, ge=1)
    """Tokens computed in one step, prompts and new ones together. A longer prompt is computed in chunks."""
    max_context: int = Field(default=0, ge=0)
    """The longest sequence, prompt and answer together; 0: what the model was made for."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    quantization: Literal["none", "int8", "int8_weight_only", "int4"] = "none"
    """Weights in fewer bits: compute/quantize.py says how. The cache and the norms stay in `dtype`."""
    native_kernels: bool = True
    """On a CPU, use this program's own kernels where a C compiler can make them and they are faster than torch's."""
    block_size: int = Field(default=16, ge=1, le=1024)
    """Tokens in a block of the KV cache."""
    kv_cache_mib: int = Field(default=0, ge=0)
    """MiB of KV cache; 0: whole contexts for the whole batch, or what fits of them."""
    prefix_cache: bool = True
    """Keep what was computed of a prompt for others that begin the same way."""
    exclusive_cpu: bool = False
    """The cores are this server's alone: its threads spin for a moment between operations instead of sleeping, and a
    step of one sequence takes half the time. Beside other busy processes it takes several times as long."""
    max_queue: int = Field(default=64, ge=1)
    """Requests that may wait for a slot; one more is answered 503 with Retry-After."""
    max_inflight_per_user: int = Field(default=0, ge=0)
    """Requests one tenant may have here at once; one more is answered 429. 0: no limit."""
    tokens_per_minute_per_user: int = Field(default=0, ge=0)
    """Tokens, prompts and answers together, that one tenant may use a minute; then 429. 0: no limit."""
    tenants: dict[str, TenantQuota] = Field(default_factory=dict)
    """Quotas of tenants that differ from the two above."""
    queue_shares: dict[_Class, float] = Field(default_factory=lambda: dict(_SHARES))
    """How much of `max_queue` each class may fill, so that one cannot keep out those above it."""
    max_jobs: int = Field(default=256, ge=0)
    """Asynchronous requests (`/v1/jobs`) that may wait or run; one more is answered 503. 0: none are taken."""
    max_job_results: int = Field(default=1024, ge=1)
    """Ended jobs whose results are kept; the oldest goes first."""
    job_result_ttl_s: float = Field(default=3600.0, gt=0.0)
    """Seconds for which an ended job's result is kept."""
    job_deadline_s: float = Field(default=3600.0, gt=0.0)
    """Seconds a job may take from when the engine gets it."""
    request_deadline_s: float = Field(default=60.0, gt=0.0)
    stuck_after_s: float = Field(default=10.0, gt=0.0)
    """Seconds without a heartbeat, or with work but no step, after which /ready says 503."""
    drain_accept_s: float = Field(default=1.0, ge=0.0)
    """Seconds after SIGTERM in which requests are still taken, so that a gateway can see /ready first."""
    drain_deadline_s: float = Field(default=30.0, ge=0.0)
    """Seconds after SIGTERM in which running requests may finish."""
    otlp_endpoint: str = ""
    """An OpenTelemetry collector's URL for spans over HTTP; "": as OTEL_EXPORTER_OTLP_ENDPOINT says, else none."""
    fault: FaultSettings | None = None

    @model_validator(mode="after")
    def _every_slot_can_decode(self) -> ServingSettings:
        if self.max_batch_tokens < self.max_batch:
            raise ValueError("max_batch_tokens must be at least max_batch, or a full batch could not take one step")
        return self

    @model_validator(mode="after")
    def _every_class_has_a_share(self) -> ServingSettings:
        missing = _SHARES.keys() - self.queue_shares.keys()
        if missing or not all(0.0 <= share <= 1.0 for share in self.queue_shares.values()):
            raise ValueError("queue_shares must give interactive, batch and background a share from 0 to 1 each")
        return self

    def quota(self, tenant: str) -> TenantQuota:
        """What `tenant` may have."""
        return self.tenants.get(tenant) or TenantQuota(
            max_inflight=self.max_inflight_per_user, tokens_per_minute=self.tokens_per_minute_per_user
        )


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
