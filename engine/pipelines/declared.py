"""A pipeline of stages that airboss.toml, or a DVC project, declares: from tables to the runner's values. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.pipelines.spec import Param, ParamKind, Pipeline, StageSpec
from state.pipeline_config import PipelineConfig
from state.words import UsageError

COMMAND = "engine.pipelines.stages.command:run"
_KINDS: dict[type, ParamKind] = {bool: "bool", int: "int", float: "float", str: "str"}


@dataclass(frozen=True, slots=True)
class CommandStage:
    """A stage that is commands, with all its paths relative to the workspace."""

    name: str
    commands: tuple[str, ...]
    cwd: str = "."
    deps: tuple[str, ...] = ()
    outs: tuple[str, ...] = ()
    persist: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    gates: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    """What it depends on besides files; in its environment as PARAM_NAME."""
    params: tuple[str, ...] = ()
    """Of the pipeline's parameters, those that go into `values`."""
    timeout_s: float = 3600.0
    retries: int = 0
    backoff_s: float = 1.0
    cached: bool = True
    dvc: Mapping[str, Any] | None = None
    """What dvc.lock calls it, and says of it (`dvc_lock.DvcStage`); None for a stage that is not DVC's."""


def declared(name: str, settings: PipelineConfig, code_path: str) -> Pipeline:
    """The pipeline of `[pipeline.NAME]` with `kind = "stages"`. Raises UsageError."""
    params = tuple(_param(key, value) for key, value in settings.params.items())
    stages: list[CommandStage | StageSpec] = []
    for key, one in settings.stage.items():
        if unknown := [wanted for wanted in one.params if wanted not in settings.params]:
            raise UsageError(
                f"pipeline {name}: stage {key}: params names {unknown[0]!r}, which [pipeline.{name}] params does not have",
                hint=f"it has {', '.join(settings.params) or 'none'}", code="unknown_parameter",
            )  # fmt: skip
        if one.entry is not None:
            stages.append(
                StageSpec(
                    key, one.entry, one.needs, {f"dep:{dep}": dep for dep in one.deps}, one.timeout, one.retries, one.backoff,
                    one.cached and not one.release, one.registry, one.release,
                    sources=tuple(f"dep:{dep}" for dep in one.deps),
                )
            )  # fmt: skip
            continue
        assert one.command is not None
        stages.append(
            CommandStage(
                key, (one.command,), one.cwd, one.deps, one.outs, (), one.needs, one.metrics, one.gates, one.env,
                params=one.params, timeout_s=one.timeout, retries=one.retries, backoff_s=one.backoff, cached=one.cached,
            )
        )  # fmt: skip
    routed = tuple(
        Param(
            p.name,
            p.default,
            p.kind,
            tuple(f"{key}.param:{p.name}" for key, one in settings.stage.items() if p.name in one.params) or ("",),
        )
        for p in params
    )
    return assembled(name, stages, tuple(p for p in routed if p.to != ("",)), code_path)


def assembled(
    name: str, stages: Sequence[CommandStage | StageSpec], params: tuple[Param, ...], code_path: str
) -> Pipeline:
    """The pipeline of these stages, in an order that respects what each needs.

    Raises UsageError for two stages that write one path, for stages that need each other, and for a need that is not there.
    """
    owners = _Owners()
    for stage in stages:
        for path in stage.outs if isinstance(stage, CommandStage) else ():
            if (owner := owners.of(path)) is not None:
                raise UsageError(f"pipeline {name}: stages {owner} and {stage.name} both write {path}")
            owners.add(path, stage.name)
    made = [_of_command(one, owners) if isinstance(one, CommandStage) else one for one in stages]
    return Pipeline(name, _in_order(name, made), params, code_paths=(code_path,))


def _of_command(stage: CommandStage, owners: _Owners) -> StageSpec:
    given = {dep: owners.of(dep) for dep in stage.deps}
    outside = tuple(dep for dep, who in given.items() if who is None)
    froms = tuple(dict.fromkeys(who for who in given.values() if who is not None))
    needs = tuple(dict.fromkeys((*froms, *stage.needs)))
    params = {
        "commands": list(stage.commands), "cwd": stage.cwd, "outs": list(stage.outs), "persist": list(stage.persist),
        "metrics": list(stage.metrics), "gates": list(stage.gates), "env": dict(stage.env), "values": dict(stage.values),
        "from_stages": [one for one in froms if one != stage.name], **{f"dep:{dep}": dep for dep in outside},
        **({"dvc": stage.dvc} if stage.dvc is not None else {}),
    }  # fmt: skip
    return StageSpec(
        stage.name, COMMAND, tuple(one for one in needs if one != stage.name), params, stage.timeout_s, stage.retries,
        stage.backoff_s, stage.cached, sources=tuple(f"dep:{dep}" for dep in outside),
        required_gates=(), in_place=bool(stage.outs),
    )  # fmt: skip


def _in_order(name: str, stages: Sequence[StageSpec]) -> tuple[StageSpec, ...]:
    known, done, order = {one.name for one in stages}, set[str](), list[StageSpec]()
    for one in stages:
        if lost := [need for need in one.needs if need not in known]:
            raise UsageError(
                f"pipeline {name}: stage {one.name} needs {lost[0]!r}, which is not there", code="no_such_stage"
            )
    left = list(stages)
    while left:
        ready = [one for one in left if done.issuperset(one.needs)]
        if not ready:
            raise UsageError(
                f"pipeline {name}: stages need each other in a circle: {', '.join(one.name for one in left)}",
                code="cycle",
            )
        order += ready
        done.update(one.name for one in ready)
        left = [one for one in left if one.name not in done]
    return tuple(order)


class _Owners:
    """Which stage writes a path: the path itself, one above it, or one below it. Found without looking at every path there is."""

    def __init__(self) -> None:
        self._at: dict[str, str] = {}
        self._below: dict[str, str] = {}

    def add(self, path: str, stage: str) -> None:
        """The stage writes `path`."""
        parts = path.rstrip("/").split("/")
        self._at["/".join(parts)] = stage
        for depth in range(1, len(parts)):
            self._below.setdefault("/".join(parts[:depth]), stage)

    def of(self, path: str) -> str | None:
        """The stage that writes there; the first of several that write below it. None for nobody."""
        parts = path.rstrip("/").split("/")
        for depth in range(1, len(parts) + 1):
            if (owner := self._at.get("/".join(parts[:depth]))) is not None:
                return owner
        return self._below.get("/".join(parts))


def _param(name: str, value: Any) -> Param:
    kind = _KINDS.get(type(value), "table" if isinstance(value, Mapping) else None)
    if kind is None:
        raise UsageError(f"parameter {name} = {value!r} must be a number, a text, true or false, or a table")
    return Param(name, value, kind)
