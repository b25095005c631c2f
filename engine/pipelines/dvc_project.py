"""A DVC project's `dvc.yaml` as a pipeline: its stages, parameters, templates, `foreach` and `matrix`, run as they stand.

dvc.org/doc/user-guide/project-structure/dvcyaml-files. What DVC keeps elsewhere is not needed: outputs are kept in our own cache,
and `dvc.lock` is neither read nor written.
"""

from __future__ import annotations

import itertools
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.pipelines.declared import CommandStage, assembled
from engine.pipelines.spec import Pipeline
from engine.pipelines.stages.metric_files import read_table
from state.words import OperationFailed, UsageError

FILE = "dvc.yaml"
PARAMS = "params.yaml"
_HOLE = re.compile(r"(?<!\\)\$\{\s*([^{}]+?)\s*\}")
_KNOWN = frozenset(
    {"cmd", "wdir", "deps", "outs", "params", "metrics", "plots", "frozen", "always_changed", "desc", "meta", "vars"}
)


def read_project(name: str, root: Path, where: str) -> Pipeline:
    """The pipeline of the dvc.yaml in `where`, a directory of the workspace `root`.

    Raises UsageError, with the stage and field, for what cannot be read or is not understood.
    """
    directory = root / where
    try:
        body = read_table(directory / FILE)
    except OperationFailed as error:
        raise UsageError(
            f"pipeline {name}: {error.message}", hint='name its directory: path = "DIR"', code="no_dvc_yaml"
        ) from None
    if not isinstance(body, Mapping) or not isinstance(body.get("stages"), Mapping):
        raise UsageError(f"pipeline {name}: {directory / FILE} has no stages", code="no_stages")
    project = _Project(directory, where)
    scope = project.scope(body.get("vars", ()))
    stages = [
        project.stage(key, entry, values)
        for stage, given in body["stages"].items()
        for key, entry, values in _unfolded(str(stage), given, scope)
    ]
    return assembled(name, [one for one in stages if one is not None], (), str(root))


class _Project:
    """Where its files are, and its parameter files as they were read."""

    def __init__(self, directory: Path, where: str) -> None:
        self._directory = directory
        self._where = where
        self._tables: dict[str, Any] = {}

    def scope(self, variables: Any) -> dict[str, Any]:
        """What templates may name: params.yaml, and the files and values under `vars`."""
        found: dict[str, Any] = {}
        if (self._directory / PARAMS).is_file():
            found.update(self._table(PARAMS))
        for one in variables or ():
            if isinstance(one, Mapping):
                found.update(one)
                continue
            path, _, wanted = str(one).partition(":")
            table = self._table(path)
            found.update({key: table[key] for key in wanted.split(",")} if wanted else table)
        return found

    def stage(self, name: str, given: Mapping[str, Any], scope: Mapping[str, Any]) -> CommandStage | None:
        """One stage; None for a frozen one, whose outputs are taken as they are."""
        if unknown := set(given) - _KNOWN:
            raise UsageError(f"{FILE}: stage {name}: {sorted(unknown)[0]!r} is not understood", code="bad_dvc_yaml")
        scope = {**scope, **self.scope(given.get("vars", ()))} if given.get("vars") else scope
        filled = {
            key: _filled(value, scope, f"stage {name}: {key}")
            for key, value in given.items()
            if key not in ("desc", "meta")
        }
        if filled.get("frozen"):
            return None
        if not filled.get("cmd"):
            raise UsageError(f"{FILE}: stage {name} has no cmd", code="bad_dvc_yaml")
        cwd = posixpath.normpath(posixpath.join(self._where, str(filled.get("wdir") or ".")))
        metrics = [path for path, _ in _paths(filled.get("metrics"))]
        outs = [*_paths(filled.get("outs")), *_paths(filled.get("metrics")), *_paths(filled.get("plots"))]

        def placed(path: str) -> str:
            made = posixpath.normpath(posixpath.join(cwd, path))
            if made.startswith(("../", "/")):
                raise UsageError(
                    f"{FILE}: stage {name}: {path} is outside the workspace",
                    hint="make the workspace the project's root",
                )
            return made

        command = filled["cmd"]
        return CommandStage(
            name=name,
            commands=tuple(str(line) for line in command) if isinstance(command, list) else (str(command),),
            cwd=cwd,
            deps=tuple(placed(str(dep)) for dep in filled.get("deps") or ()),
            outs=tuple(dict.fromkeys(placed(path) for path, _ in outs)),
            persist=tuple(placed(path) for path, options in outs if options.get("persist")),
            metrics=tuple(placed(path) for path in metrics),
            values=self._values(name, cwd, filled.get("params") or ()),
            cached=not filled.get("always_changed"),
            timeout_s=7 * 86_400.0,
        )

    def _values(self, name: str, cwd: str, params: Sequence[Any]) -> dict[str, Any]:
        """The parameters that a stage names, with their values now."""
        found: dict[str, Any] = {}
        for one in params:
            files = one.items() if isinstance(one, Mapping) else [(PARAMS, [one])]
            for file, keys in files:
                path = posixpath.relpath(posixpath.join(cwd, str(file)), self._where)
                table = self._table(path)
                for key in keys or ["*"]:
                    label = str(key) if path == PARAMS else f"{path}:{key}"
                    found[label] = table if key == "*" else _looked_up(table, str(key), f"stage {name}: params")
        return found

    def _table(self, path: str) -> Any:
        if path not in self._tables:
            try:
                self._tables[path] = read_table(self._directory / path) or {}
            except OperationFailed as error:
                raise UsageError(f"{FILE}: {error.message}", hint=error.hint, code="bad_dvc_yaml") from None
        return self._tables[path]


def _unfolded(
    name: str, given: Any, scope: Mapping[str, Any]
) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """(stage, its table, what templates may name) of each stage that one entry stands for."""
    if not isinstance(given, Mapping):
        raise UsageError(f"{FILE}: stage {name} is not a table", code="bad_dvc_yaml")
    if "foreach" in given:
        items = _filled(given["foreach"], scope, f"stage {name}: foreach")
        pairs = items.items() if isinstance(items, Mapping) else [(_word(one, at), one) for at, one in enumerate(items)]
        for key, item in pairs:
            yield f"{name}@{_clean(key)}", given["do"], {**scope, "item": item, "key": key}
    elif "matrix" in given:
        axes = {axis: _filled(values, scope, f"stage {name}: matrix") for axis, values in given["matrix"].items()}
        rest = {key: value for key, value in given.items() if key != "matrix"}
        for chosen in itertools.product(*(list(enumerate(values)) for values in axes.values())):
            item = dict(zip(axes, (value for _, value in chosen), strict=True))
            words = (_word(value, f"{axis}{at}") for axis, (at, value) in zip(axes, chosen, strict=True))
            key = "-".join(_clean(word) for word in words)
            yield f"{name}@{key}", rest, {**scope, "item": item, "key": key}
    else:
        yield _clean(name), given, scope


def _word(value: Any, otherwise: Any) -> str:
    return str(otherwise) if isinstance(value, Mapping | list) else str(value)


def _clean(text: Any) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "-", str(text))


def _paths(entries: Any) -> list[tuple[str, Mapping[str, Any]]]:
    """(path, options) of each output, however it is written."""
    found: list[tuple[str, Mapping[str, Any]]] = []
    for one in entries or ():
        if isinstance(one, Mapping):
            found += [(str(path), options or {}) for path, options in one.items()]
        else:
            found.append((str(one), {}))
    return found


def _filled(value: Any, scope: Mapping[str, Any], where: str) -> Any:
    """`value` with its ${templates} filled. A template alone keeps its type; a table in a text becomes options (--key value)."""
    if isinstance(value, Mapping):
        return {_filled(key, scope, where): _filled(inner, scope, where) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, scope, where) for inner in value]
    if not isinstance(value, str):
        return value
    if whole := _HOLE.fullmatch(value):
        return _looked_up(scope, whole[1], where)
    return _HOLE.sub(lambda hole: _text(_looked_up(scope, hole[1], where)), value).replace("\\${", "${")


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        words = [
            w
            for k, v in value.items()
            for w in ([f"--{k}"] if v is True else [] if v is False else [f"--{k}", _text(v)])
        ]
        return " ".join(words)
    return " ".join(map(_text, value)) if isinstance(value, list) else str(value)


def _looked_up(table: Any, path: str, where: str) -> Any:
    """The value at `a.b[0].c`. Raises UsageError."""
    value = table
    for part in re.findall(r"[^.\[\]]+", path):
        try:
            value = value[int(part)] if isinstance(value, list) else value[part]
        except (KeyError, IndexError, TypeError, ValueError):
            raise UsageError(
                f"{FILE}: {where}: there is no {path!r}",
                hint=f"it is looked for in {PARAMS} and under vars",
                code="bad_dvc_yaml",
            ) from None
    return value
