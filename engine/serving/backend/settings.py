"""What a release, or a service's `serving` table, says of a server that is not ours: vLLM, or any command.

Settings that only the torch engine knows may stand in a release's `serving.json`: a release is not bound to what serves
it. In a service's table every word is meant for the backend it names, and an unknown one is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from engine.serving.settings import FaultSettings, ServingSettings
from state.words import ConfigError

TORCH = "torch"
Profile = Literal["none", "vllm", "llamacpp", "tgi", "triton"]


class ForeignSettings(BaseModel):
    """What every foreign server has in common."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = ""
    """What it loads, a path or a name it knows; the release's own directory when empty."""
    model_name: str = ""
    """The name it calls the model; requests are rewritten to it. Empty: the service's."""
    env: dict[str, str] = Field(default_factory=dict)
    """Added to its environment; `{port}` and the other places may stand in the values."""
    ready_path: str = ""
    """Asked with GET until it answers 200, before the first real request; empty: not asked."""
    probe: Literal["completions", "chat"] = "completions"
    """Which endpoint must give one token before the replica is ready."""
    metrics_path: str = "/metrics"
    metrics_profile: Profile = "none"
    """Whose names its metrics have; they are shown under vLLM's too."""
    start_timeout_s: float = Field(default=900.0, gt=0.0)
    """Loading and compiling may take so long; a server that has given no token by then is ended."""
    stop_grace_s: float = Field(default=10.0, gt=0.0)
    """Seconds between its SIGTERM and its SIGKILL."""
    max_inflight: int = Field(default=256, ge=1)
    """Requests it may have at once; one more is answered 503 with Retry-After."""
    request_deadline_s: float = Field(default=60.0, gt=0.0)
    probe_every_s: float = Field(default=10.0, gt=0.0)
    """Seconds without an answer of its own after which it is asked for a token again."""
    stuck_after_s: float = Field(default=30.0, gt=0.0)
    """Seconds that such a token may take."""
    drain_accept_s: float = Field(default=1.0, ge=0.0)
    drain_deadline_s: float = Field(default=30.0, ge=0.0)
    fault: FaultSettings | None = None


class CommandSettings(ForeignSettings):
    """`backend = "command"`: any program with OpenAI's API."""

    backend: Literal["command"]
    command: tuple[str, ...] = Field(min_length=1)
    """Program and arguments. Places: {host} {port} {metrics_port} {socket} {model} {model_name} {api_key}."""

    @model_validator(mode="after")
    def _listens_somewhere(self) -> CommandSettings:
        if not any("{port}" in word or "{socket}" in word for word in (*self.command, *self.env.values())):
            raise ValueError("neither {port} nor {socket} stands in it: the program could not be told where to listen")
        return self


class VllmSettings(ForeignSettings):
    """`backend = "vllm"`: vLLM's OpenAI server, from an environment of its own if need be."""

    backend: Literal["vllm"]
    python: str = ""
    """The interpreter that has vLLM; empty: our own."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    tensor_parallel: int = Field(default=1, ge=1)
    max_model_len: int | None = Field(default=None, ge=1)
    quantization: str = ""
    gpu_memory_utilization: float | None = Field(default=None, gt=0.0, le=1.0)
    max_num_seqs: int | None = Field(default=None, ge=1)
    extra_args: tuple[str, ...] = ()
    """Passed to vLLM as they are."""
    ready_path: str = "/health"
    metrics_profile: Profile = "vllm"


Settings = CommandSettings | VllmSettings
_KINDS: dict[str, type[CommandSettings] | type[VllmSettings]] = {"command": CommandSettings, "vllm": VllmSettings}


_TORCH_ONLY = set(ServingSettings.model_fields) - set(ForeignSettings.model_fields)


def _for_foreign(release: Mapping[str, Any]) -> dict[str, Any]:
    """What a release that was made for torch says to any server; the same word may mean something else to vLLM."""
    meant = set(ForeignSettings.model_fields) | {"dtype"}
    return {name: value for name, value in release.items() if name in meant or name not in ServingSettings.model_fields}


def backend_of(release: Mapping[str, Any], overrides: Mapping[str, Any]) -> str:
    """Which backend is meant: `torch` unless something else is said. Raises ConfigError for one there is not."""
    kind = overrides.get("backend", release.get("backend", TORCH))
    if kind != TORCH and kind not in _KINDS:
        raise ConfigError(
            f"there is no backend {kind!r}; there are torch, vllm and command",
            hint="correct `backend` in the service's serving table, or in serving.json of the release",
        )
    return str(kind)


def backend_settings(release: Mapping[str, Any], overrides: Mapping[str, Any]) -> Settings:
    """The settings in effect of a foreign backend. Raises ConfigError naming the field that cannot be meant."""
    kind = _KINDS[backend_of(release, overrides)]
    kept = _for_foreign(release) if release.get("backend", TORCH) == TORCH else dict(release)
    kept = {name: value for name, value in kept.items() if name in kind.model_fields or name not in _TORCH_ONLY}
    try:
        return kind.model_validate({**kept, **overrides})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "serving"
        raise ConfigError(
            f"the serving configuration's {field} cannot be used: {first['msg'].removeprefix('Value error, ')}",
            hint=f"a {kind.model_fields['backend'].annotation.__args__[0]} backend takes: "  # type: ignore[union-attr]
            + ", ".join(kind.model_fields),
        ) from error
