"""`runtime = "kubernetes"`: where a target's cluster is, whose its objects are, and what a service's pods are made of."""

from __future__ import annotations

import re
import string
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from state.config_types import Duration, Name, Table
from state.image_config import ImageCheck

FIELDS = ("service", "env", "release", "digest")
"""What `{…}` in a container's command, args and environment may name."""
OWN_LABELS = ("app.kubernetes.io/name", "app.kubernetes.io/managed-by")


class Target(Table):
    """A place an environment runs: processes on this host, or a cluster's namespace (`airboss help kubernetes`).

    `context` is the kubeconfig's (the current one without it), `kubeconfig` a file; in a pod with neither, its service account.
    `lease = true` lets one engine at a time write there, where several drive the environment.
    `gitops = "agreed"` says that what Git keeps there leaves our fields alone; else it is looked at before each rollout.
    `traffic`: our gateway asks the pods itself, an HTTPRoute's weights split, or a Service's selector switches.
    """

    name: Name = "local"
    runtime: Literal["local", "kubernetes"] = "local"
    context: str | None = None
    kubeconfig: str | None = None
    namespace: str | None = None
    traffic: Literal["gateway", "httproute", "service"] = "gateway"
    route: str | None = None
    gateway: str | None = None
    hostnames: tuple[str, ...] = ()
    ownership: Literal["observe", "weights", "full"] = "observe"
    lease: bool = False
    gitops: Literal["check", "agreed"] = "check"
    argocd_namespace: str = "argocd"
    probe: Literal["direct", "proxy"] | None = None
    timeout: Duration = 10.0

    @model_validator(mode="after")
    def _of_its_runtime(self) -> Target:
        if self.runtime == "local":
            if given := sorted(self.model_fields_set - {"name", "runtime"}):
                raise ValueError(f'{", ".join(given)}: for runtime = "kubernetes" only')
            return self
        if not self.namespace:
            raise ValueError('runtime = "kubernetes" needs namespace = "…": nothing is written outside it')
        if self.gateway is not None and not re.fullmatch(r"[a-z0-9.-]+(/[a-z0-9.-]+){0,2}", self.gateway):
            raise ValueError('gateway must be "NAME", "NAMESPACE/NAME" or "NAMESPACE/NAME/LISTENER"')
        return self

    @property
    def probes_by_proxy(self) -> bool:
        """Pods are asked through the API server: where our gateway is not in the path, their addresses may be out of reach."""
        return (self.probe or ("direct" if self.traffic == "gateway" else "proxy")) == "proxy"


class Pods(Table):
    """What a service's pods are made of, in every environment with `runtime = "kubernetes"`. Holds for releases deployed from then on.

    `{service}`, `{env}`, `{release}` and `{digest}` in command, args and env are the release's. `pod` and `container` are merged
    into what is made (`pod = { nodeSelector = { … }, volumes = [ … ] }`).
    """

    image: str = "vllm/vllm-openai:v0.11.0"
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ("--model", "/models/{digest}", "--served-model-name", "{service}")
    env: dict[str, str] = Field(default_factory=dict)
    port: int = Field(default=8000, ge=1, le=65535)
    health: str = "/health"
    api: Literal["openai", "airboss"] = "openai"
    gpu: int = Field(default=0, ge=0, le=16)
    gpu_resource: str = "nvidia.com/gpu"
    requests: dict[str, str] = Field(default_factory=dict)
    limits: dict[str, str] = Field(default_factory=dict)
    start_timeout: Duration = 900.0
    drain: Duration = 60.0
    service_account: str | None = None
    disruption_budget: bool = True
    verify: ImageCheck | None = None
    pod: dict[str, Any] = Field(default_factory=dict)
    container: dict[str, Any] = Field(default_factory=dict)

    @field_validator("image")
    @classmethod
    def _said(cls, value: str) -> str:
        if not value or any(c.isspace() for c in value):
            raise ValueError("must be an image such as registry/name:tag or registry/name@sha256:…")
        return value

    @model_validator(mode="after")
    def _known_fields(self) -> Pods:
        for text in (*self.command, *self.args, *self.env.values()):
            try:
                unknown = {name for _, name, _, _ in string.Formatter().parse(text) if name is not None} - set(FIELDS)
            except ValueError as error:
                raise ValueError(f"{text!r}: {error}; a brace is written {{{{ or }}}}") from error
            if unknown:
                raise ValueError(f"{text!r} names {min(unknown)!r}; there are {', '.join(FIELDS)}")
        return self
