"""`airboss.toml`: its schema, its defaults, and errors that name file, line and field."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, Field, ValidationError, model_validator

from state.alerts_config import AlertsConfig
from state.autoscale_config import Autoscale
from state.config_types import Duration, Name, Table
from state.freeze_config import FreezeWindow
from state.gateway_config import GatewayConfig
from state.haproxy_limits import beyond_haproxy, carried
from state.hook_config import Hook
from state.kubernetes_config import Pods, Target
from state.measures_config import CostConfig, QualityConfig
from state.metrics_config import MetricsConfig, ProfileChoice, troubles
from state.people_config import PeopleConfig, Roles
from state.pipeline_config import PipelineConfig
from state.policy_config import Policy
from state.registry_config import RegistryConfig
from state.routing_config import RoutingConfig, find_loop
from state.service_access_config import AnswerCacheConfig, SafetyConfig
from state.store_config import StateConfig
from state.words import ConfigError, UsageError

CONFIG_NAME = "airboss.toml"
STATE_DIR = ".airboss"
GOVERNED = ("roles", "people", "policy", "environment", "freeze")
"""The tables that change by an admin's act alone (`airboss config apply`), not by writing the file."""


class Slo(Table):
    """What a service promises. `availability` and `latency_share` are percents of requests in the window.

    A spent budget freezes forward changes of the service (break-glass apart, and never a rollback) unless `freeze_when_spent = false`.
    """

    availability: float = Field(default=99.5, gt=0, lt=100)
    latency_p95_ms: float = Field(default=800, gt=0)
    latency_share: float = Field(default=95.0, gt=0, lt=100)
    window_d: float = Field(default=28, gt=0)
    freeze_when_spent: bool = True

    @property
    def error_limit(self) -> float:
        """The largest bad share the objective allows, 0..1."""
        return 1 - self.availability / 100

    @property
    def slow_limit(self) -> float:
        """The largest share of requests slower than `latency_p95_ms`, 0..1."""
        return 1 - self.latency_share / 100


class Service(Table):
    """A named model endpoint that users call."""

    slo: Slo = Slo()
    pipeline: Name | None = None
    replicas: int = Field(default=1, ge=1, le=64)
    autoscale: Autoscale | None = None
    prober: bool = True
    prober_interval: Duration = 5.0
    deadline: Duration = 30.0
    serving: dict[str, Any] = Field(default_factory=dict)
    routing: RoutingConfig = RoutingConfig()
    cache: AnswerCacheConfig = AnswerCacheConfig()
    safety: SafetyConfig = SafetyConfig()
    quality: QualityConfig = QualityConfig()
    cost: CostConfig = CostConfig()
    kubernetes: Pods = Pods()
    metrics: ProfileChoice = ProfileChoice()

    def access_for_table(self) -> dict[str, Any] | None:
        """What the routing table says of caching and safety; None when nothing is configured."""
        cache, safety = self.cache.for_table(), self.safety.for_table()
        return {"cache": cache, "safety": safety} if cache or safety else None

    def measures_for_table(self) -> dict[str, Any] | None:
        """What the routing table says of quality and cost; None when neither is measured."""
        quality, cost = self.quality.for_table(), self.cost.for_table()
        return {"quality": quality, "cost": cost} if quality or cost else None


class Environment(Table):
    """Where services run, how strict it is, and which policy moves its releases."""

    protected: bool = True
    targets: tuple[Target, ...] = (Target(),)
    policy: Name = "careful"
    allow_faults: bool = False
    read_only: bool = False

    @property
    def cluster(self) -> Target | None:
        """The cluster it runs on; None where it runs here."""
        return next((target for target in self.targets if target.runtime == "kubernetes"), None)


class EngineConfig(Table):
    """The engine's own limits."""

    socket_group: str | None = None
    model_threads: int = Field(default=0, ge=0)
    restart_backoff: Duration = 0.5
    restart_backoff_max: Duration = 30.0
    crash_loop_count: int = Field(default=4, ge=2)
    crash_loop_window: Duration = 120.0


class Config(Table):
    """A workspace's `airboss.toml`."""

    workspace: dict[Literal["name", "kind"], str] = Field(default_factory=dict)
    service: dict[Name, Service] = Field(default_factory=dict)
    environment: dict[Name, Environment] = Field(default_factory=dict)
    policy: dict[Name, Policy] = Field(default_factory=lambda: {"careful": Policy()})
    pipeline: dict[Name, PipelineConfig] = Field(default_factory=dict)
    roles: dict[Name, Roles] = Field(default_factory=dict)
    people: PeopleConfig = PeopleConfig()
    hook: dict[Name, Hook] = Field(default_factory=dict)
    freeze: dict[Name, FreezeWindow] = Field(default_factory=dict)
    registry: RegistryConfig = RegistryConfig()
    metrics: MetricsConfig = MetricsConfig()
    state: StateConfig = StateConfig()
    gateway: GatewayConfig = GatewayConfig()
    alerts: AlertsConfig = AlertsConfig()
    engine: EngineConfig = EngineConfig()

    @model_validator(mode="after")
    def _names_refer(self) -> Config:
        known = {**{"careful": Policy()}, **self.policy}
        for name, env in self.environment.items():
            if env.policy not in known:
                raise ValueError(f"environment.{name}.policy = {env.policy!r}: no [policy.{env.policy}] in this file")
        for name, service in self.service.items():
            if service.pipeline is not None and service.pipeline not in self.pipeline:
                raise ValueError(
                    f"service.{name}.pipeline = {service.pipeline!r}: no [pipeline.{service.pipeline}] in this file"
                )
            if unknown := set(service.routing.choose.targets()) - set(self.service):
                raise ValueError(
                    f"service.{name}.routing.choose: no [service.{min(unknown)}] in this file; it can only lead to services"
                )
        if loop := find_loop({name: service.routing.choose.targets() for name, service in self.service.items()}):
            raise ValueError(f"routing.choose leads in a circle: {' -> '.join(loop)}; take one of these steps out")
        if beyond := list(beyond_haproxy(self.gateway, self.service, self.environment, self.policy)):
            raise ValueError(f"gateway.engine = 'haproxy' cannot carry {'; '.join(beyond)}")
        counted = {name: service.metrics for name, service in self.service.items()}
        places = {name: env.cluster.namespace if env.cluster else None for name, env in self.environment.items()}
        if wrong := next(troubles(self.metrics, counted, places), None):
            raise ValueError(wrong)
        for name, window in self.freeze.items():
            if missing := set(window.environments) - set(self.environment):
                raise ValueError(f"freeze.{name}.environments: no [environment.{min(missing)}] in this file")
        for name, hook in self.hook.items():
            if missing := set(hook.environments) - set(self.environment):
                raise ValueError(f"hook.{name}.environments: no [environment.{min(missing)}] in this file")
        for name in self.roles:
            if name not in self.environment:
                raise ValueError(f"roles.{name}: no [environment.{name}] in this file")
        return self

    def policy_of(self, env: str) -> Policy:
        """The policy an environment rolls out by."""
        name = self.environment[env].policy
        return carried(self.policy.get(name, Policy()), self.gateway.engine)

    def take_governed(self, other: Config) -> None:
        """Let the governed tables of `other` hold from now on: the one way in which a running configuration changes."""
        for name in GOVERNED:
            self.__dict__[name] = getattr(other, name)
        mine = self.model_fields_set
        mine.difference_update(GOVERNED)
        mine.update(other.model_fields_set.intersection(GOVERNED))

    def other_tables_than(self, other: Config) -> tuple[str, ...]:
        """The tables, governed ones apart, that `other` has otherwise."""
        return tuple(
            name for name in Config.model_fields if name not in GOVERNED and getattr(self, name) != getattr(other, name)
        )

    @property
    def is_demo(self) -> bool:
        """A workspace that `airboss demo` made."""
        return self.workspace.get("kind") == "demo"


def load_config(root: Path) -> Config:
    """Read and check `root/airboss.toml`.

    Raises UsageError when `root` is no workspace, ConfigError (file, line, field, what is allowed) otherwise.
    """
    path = root / CONFIG_NAME
    try:
        source = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(
            f"{root} is not an Airboss workspace: there is no {CONFIG_NAME} in it",
            hint="run `airboss init` there, or name a workspace with --workspace DIR",
            code="no_workspace",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", hint="make it a readable UTF-8 text file") from error
    return parse_config(source, path)


def parse_config(source: str, path: Path) -> Config:
    """The Config that `source` states; `path` is for messages only. Raises ConfigError."""
    try:
        data = tomllib.loads(source)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}", hint="see https://toml.io for the syntax") from error
    _refuse_literal_secrets(data, source, path)
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_explain(error, source, path), hint="`airboss help config` lists every field") from error


def _explain(error: ValidationError, source: str, path: Path) -> str:
    lines = []
    for item in error.errors()[:8]:
        loc = tuple(str(part) for part in item["loc"])
        what = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            what = f"no such field{_near(loc)}"
        got = item.get("input")
        shown = (
            f", not {got!r}" if isinstance(got, str | int | float | bool) and item["type"] != "extra_forbidden" else ""
        )
        field = ".".join(loc) or "the file as a whole"
        lines.append(f"{path}:{line_of(source, loc)}: {field}: {what}{shown}")
    return "\n".join(lines)


def _near(loc: tuple[str, ...]) -> str:
    """The fields that the table holding the unknown one may have."""
    model: Any = Config
    for part in loc[:-1]:
        if not isinstance(model, type):
            break
        field = model.model_fields.get(part) if issubclass(model, BaseModel) else None
        if field is not None:
            model = next(iter(_models_in(field.annotation)), None)
        # A part that is no field is a name the user gave (environment.NAME): the model stays.
    fields = getattr(model, "model_fields", {})
    return f"; allowed: {', '.join(fields)}" if fields else ""


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that an annotation such as dict[Name, Service] holds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def line_of(source: str, loc: tuple[str, ...]) -> int:
    """The line (from 1) where the longest known part of `loc` stands in TOML `source`."""
    table: tuple[str, ...] = ()
    best, best_line = 0, 1
    for number, raw in enumerate(source.splitlines(), start=1):
        line = raw.strip()
        if header := re.fullmatch(r"\[\[?\s*([^\]]+?)\s*\]\]?\s*(?:#.*)?", line):
            table = tuple(part.strip().strip("\"'") for part in header.group(1).split("."))
            where = table
        elif key := re.match(r"([A-Za-z0-9_.\"'-]+)\s*=", line):
            where = (*table, *(part.strip("\"'") for part in key.group(1).split(".")))
        else:
            continue
        common = 0
        while common < min(len(where), len(loc)) and where[common] == loc[common]:
            common += 1
        if common > best and common == len(where):
            best, best_line = common, number
    return best_line


_SECRET_KEY = re.compile(r"(?i)(^|_)(token|password|secret|api_?key)$")


def _refuse_literal_secrets(data: Any, source: str, path: Path, loc: tuple[str, ...] = ()) -> None:
    if isinstance(data, dict):
        for key, value in data.items():
            here = (*loc, str(key))
            if _SECRET_KEY.search(str(key)) and isinstance(value, str) and not value.startswith(("env:", "file:")):
                raise ConfigError(
                    f"{path}:{line_of(source, here)}: {'.'.join(here)}: a secret must not stand in the file",
                    hint="write env:NAME or file:PATH instead",
                )
            _refuse_literal_secrets(value, source, path, here)
    elif isinstance(data, list):
        for value in data:
            _refuse_literal_secrets(value, source, path, loc)
