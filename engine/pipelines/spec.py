"""What a pipeline is: stages with dependencies, and the parameters a person may set. Frozen values, no I/O."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from state.digests import canonical_json, text_sha256
from state.words import UsageError

ParamKind = Literal["int", "float", "str", "bool", "table"]
_ENTRY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_WANTED: dict[str, str] = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "table": "a JSON object",
}


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter a person may set, by its dotted name. `to` lists the `stage.param` places that receive it."""

    name: str
    default: Any
    kind: ParamKind
    to: tuple[str, ...] = ()
    nullable: bool = False
    minimum: float | None = None
    help: str = ""

    @property
    def targets(self) -> tuple[tuple[str, str], ...]:
        """(stage, param) pairs; a parameter without `to` goes to the place its own name says."""
        pairs = []
        for place in self.to or (self.name,):
            stage, _, param = place.partition(".")
            pairs.append((stage, param))
        return tuple(pairs)

    def parse(self, value: Any) -> Any:
        """`value` (a shell word, TOML or JSON) as this parameter's type. Raises UsageError saying what is wanted."""
        if value is None or (isinstance(value, str) and value in ("null", "") and self.kind != "str"):
            if self.nullable:
                return None
            raise self._wrong(value)
        if self.nullable and value == "null":
            return None
        try:
            parsed = self._convert(value)
        except (TypeError, ValueError):
            raise self._wrong(value) from None
        if self.minimum is not None and parsed < self.minimum:
            raise UsageError(f"{self.name} = {value!r}: must be at least {self.minimum:g}", code="bad_parameter")
        return parsed

    def _convert(self, value: Any) -> Any:
        match self.kind:
            case "int":
                if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
                    raise ValueError
                return int(value)
            case "float":
                if isinstance(value, bool) or not math.isfinite(number := float(value)):
                    raise ValueError
                return number
            case "bool":
                if isinstance(value, str):
                    return {"true": True, "false": False}[value] if value in ("true", "false") else _refuse()
                return value if isinstance(value, bool) else _refuse()
            case "table":
                table = json.loads(value) if isinstance(value, str) else value
                return dict(table) if isinstance(table, Mapping) else _refuse()
            case "str":
                return value if isinstance(value, str) else _refuse()

    def _wrong(self, value: Any) -> UsageError:
        wanted = _WANTED[self.kind] + (" or null" if self.nullable else "")
        return UsageError(f"{self.name} = {value!r}: must be {wanted}", code="bad_parameter")


def _refuse() -> Any:
    raise ValueError


@dataclass(frozen=True, slots=True)
class StageSpec:
    """One node of a pipeline.

    `entry` is `package.module:function`. `reads` names the parts of the run's context that the stage's outputs depend
    on: a cached stage gets only those (and `workspace`), and they are in its key. `sources` names the parameters that
    are paths to data outside, whose content is in the key. `cached=False` is for stages with effects outside their
    output directory. `required_gates` must be among the gates the stage reports, else it is refused. `in_place` outputs
    belong at their paths in the workspace, and are put there also when kept ones are used. `executor` says where its
    commands run: nothing for this host, else `state.job_config.JobPods`, whose image is in the key.
    """

    name: str
    entry: str
    needs: tuple[str, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    timeout_s: float = 600.0
    retries: int = 2
    backoff_s: float = 1.0
    cached: bool = True
    uses_registry: bool = False
    makes_release: bool = False
    reads: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    required_gates: tuple[str, ...] = ()
    in_place: bool = False
    executor: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Stages in an order that respects their needs, and the parameters of the whole.

    `values` holds every parameter's value by dotted name. `code_paths` are directories, beside the interpreter's own,
    where entries are looked for (a workspace's own stages).
    """

    name: str
    stages: tuple[StageSpec, ...]
    params: tuple[Param, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    code_paths: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for stage in self.stages:
            if stage.name in seen or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_@-]*", stage.name):
                raise UsageError(
                    f"pipeline {self.name}: stage name {stage.name!r} is taken or not of letters, digits, '-', '_', '@'"
                )
            if not _ENTRY.fullmatch(stage.entry):
                raise UsageError(
                    f"pipeline {self.name}: stage {stage.name}: entry {stage.entry!r} is not module:function"
                )
            if missing := [need for need in stage.needs if need not in seen]:
                raise UsageError(
                    f"pipeline {self.name}: stage {stage.name} needs {missing[0]!r}, which no stage before it is"
                )
            seen.add(stage.name)
        for param in self.params:
            if lost := [stage for stage, _ in param.targets if stage not in seen]:
                raise UsageError(
                    f"pipeline {self.name}: parameter {param.name} is for stage {lost[0]!r}, which is not there"
                )

    def stage(self, name: str) -> StageSpec:
        """The stage called `name`. Raises UsageError naming the stages there are."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise UsageError(
            f"pipeline {self.name} has no stage {name!r}",
            hint=f"its stages are {', '.join(stage.name for stage in self.stages)}",
            code="no_such_stage",
        )

    def with_values(self, values: Mapping[str, Any]) -> Pipeline:
        """This pipeline with parameters replaced. Nested tables and dotted names mean the same.

        Raises UsageError for a parameter that does not exist (naming those that do) or a value of the wrong type.
        """
        merged = {param.name: param.default for param in self.params} | dict(self.values)
        for param, path, value in self._assignments(values):
            if path:
                merged[param.name] = _set_in(merged[param.name] or {}, path, _loosely(value))
            else:
                merged[param.name] = param.parse(value)
        try:
            text_sha256(canonical_json(merged))
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"pipeline {self.name}: a parameter cannot be kept: {error}", code="bad_parameter"
            ) from error
        return replace(self, values=merged)

    def stage_params(self, name: str) -> dict[str, Any]:
        """What the stage `name` is given: its own constants, then every parameter that goes to it."""
        given = dict(self.stage(name).params)
        for param in self.params:
            value = self.values.get(param.name, param.default)
            given.update({where: value for stage, where in param.targets if stage == name})
        return given

    def downstream(self, name: str) -> frozenset[str]:
        """The stage `name` and every stage that needs it, however far."""
        reached = {self.stage(name).name}
        for stage in self.stages:
            if reached.intersection(stage.needs):
                reached.add(stage.name)
        return frozenset(reached)

    def _assignments(self, values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[Param, tuple[str, ...], Any]]:
        """(parameter, path inside its table, value) of each setting in `values`."""
        known = {param.name: param for param in self.params}
        for key, value in values.items():
            name = f"{prefix}{key}"
            if name in known:
                yield known[name], (), value
            elif table := next((p for p in self.params if p.kind == "table" and name.startswith(p.name + ".")), None):
                yield table, tuple(name.removeprefix(table.name + ".").split(".")), value
            elif isinstance(value, Mapping) and any(other.startswith(name + ".") for other in known):
                yield from self._assignments(value, f"{name}.")
            else:
                close = difflib.get_close_matches(name, known, n=1)
                raise UsageError(
                    f"pipeline {self.name} has no parameter {name!r}"
                    + (f"; did you mean {close[0]}?" if close else ""),
                    hint=f"its parameters are {', '.join(sorted(known)) or 'none'}",
                    code="unknown_parameter",
                )

    def to_json(self) -> dict[str, Any]:
        """The pipeline as plain JSON: a run keeps the one it began with."""
        return {
            "name": self.name,
            "stages": [asdict(stage) for stage in self.stages],
            "params": [asdict(param) for param in self.params],
            "values": dict(self.values),
            "code_paths": list(self.code_paths),
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Pipeline:
        """The pipeline that `to_json` wrote."""
        return cls(
            name=body["name"],
            stages=tuple(
                StageSpec(**_tuples(stage, "needs", "reads", "sources", "required_gates")) for stage in body["stages"]
            ),
            params=tuple(Param(**_tuples(param, "to")) for param in body["params"]),
            values=body["values"],
            code_paths=tuple(body["code_paths"]),
        )


def _tuples(body: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {key: tuple(value) if key in names else value for key, value in body.items()}


def _set_in(table: Mapping[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """`table` with the value at `path` replaced, tables made on the way."""
    head, *rest = path
    inner = table.get(head)
    below = _set_in(inner if isinstance(inner, Mapping) else {}, tuple(rest), value) if rest else value
    return {**table, head: below}


def _loosely(value: Any) -> Any:
    """A shell word inside a table has no declared type: JSON if it is JSON, else text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value
