"""A DVC project's `dvc.yaml` as a pipeline: its stages, parameters, templates, `foreach` and `matrix`, run as they stand.

dvc.org/doc/user-guide/project-structure/dvcyaml-files. Outputs are kept in our own cache; `dvc_lock` has what DVC is told of it.
"""

from __future__ import annotations

import itertools
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.pipelines.declared import CommandStage, assembled
from engine.pipelines.dvc_lock import DvcStage
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

        command = [str(line) for line in filled["cmd"]] if isinstance(filled["cmd"], list) else str(filled["cmd"])
        deps = {str(dep): placed(str(dep)) for dep in filled.get("deps") or ()}
        params = self._params(name, cwd, filled.get("params") or ())
        theirs = DvcStage(
            project=self._where,
            name=name,
            cmd=command,
            deps=deps,
            params=params,
            outs={path: placed(path) for path, _ in outs},
            uncached=tuple(path for path, options in outs if options.get("cache") is False),
        )
        is_callback = not (deps or params or outs)
        return CommandStage(
            name=_clean(name, also="@"),
            commands=tuple(command) if isinstance(command, list) else (command,),
            cwd=cwd,
            deps=tuple(deps.values()),
            outs=tuple(dict.fromkeys(placed(path) for path, _ in outs)),
            persist=tuple(placed(path) for path, options in outs if options.get("persist")),
            metrics=tuple(placed(path) for path in metrics),
            values=self._values(cwd, params),
            cached=not (filled.get("always_changed") or is_callback),
            timeout_s=7 * 86_400.0,
            dvc=theirs.to_json(),
        )

    def _params(self, name: str, cwd: str, params: Sequence[Any]) -> dict[str, dict[str, Any]]:
        """File → parameter → its value now, of those that a stage names. A file alone stands for all that is in it."""
        found: dict[str, dict[str, Any]] = {}
        for one in params:
            files = one.items() if isinstance(one, Mapping) else [(PARAMS, [one])]
            for file, keys in files:
                table = self._table(self._in_project(cwd, str(file)))
                said = {str(key): _looked_up(table, str(key), f"stage {name}: params") for key in keys or ()}
                found.setdefault(str(file), {}).update(said or {str(key): value for key, value in table.items()})
        return found

    def _values(self, cwd: str, params: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """The same, by the names that the stage's environment has them under."""
        paths = {file: self._in_project(cwd, file) for file in params}
        return {
            key if paths[file] == PARAMS else f"{paths[file]}:{key}": value
            for file, values in params.items()
            for key, value in values.items()
        }

    def _in_project(self, cwd: str, file: str) -> str:
        return posixpath.relpath(posixpath.join(cwd, file), self._where)

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
            yield f"{name}@{_text(key)}", given["do"], {**scope, "item": item, "key": key}
    elif "matrix" in given:
        axes = {axis: _filled(values, scope, f"stage {name}: matrix") for axis, values in given["matrix"].items()}
        rest = {key: value for key, value in given.items() if key != "matrix"}
        for chosen in itertools.product(*(list(enumerate(values)) for values in axes.values())):
            item = dict(zip(axes, (value for _, value in chosen), strict=True))
            words = (_word(value, f"{axis}{at}") for axis, (at, value) in zip(axes, chosen, strict=True))
            key = "-".join(words)
            yield f"{name}@{key}", rest, {**scope, "item": item, "key": key}
    else:
        yield name, given, scope


def _word(value: Any, otherwise: Any) -> str:
    return str(otherwise) if isinstance(value, Mapping | list) else _text(value)


def _clean(text: str, also: str = "") -> str:
    """A name as our own stages may have it: they are file names too."""
    return re.sub(rf"[^A-Za-z0-9_{also}-]", "-", text)


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
