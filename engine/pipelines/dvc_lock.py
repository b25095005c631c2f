"""`dvc.lock`, read and written as DVC does (schema 2.0): what one of the two has made, the other does not make again. Blocks.

What a stage's entry names, and what DVC looks at: its command, the md5 of each dep and out, the values of its parameters.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from engine.pipelines.dvc_files import Content, DvcRepository
from state.digests import canonical_json
from state.words import OperationFailed

FILE = "dvc.lock"
SCHEMA = "2.0"


@dataclass(frozen=True, slots=True)
class DvcStage:
    """A stage of dvc.yaml, its templates filled.

    `name` is DVC's own, `project` the folder of dvc.yaml. `deps` and `outs` map the path as it is written, relative to the stage's
    `wdir`, to the one in the workspace; `params` has file → name → value; `uncached` the outs that DVC's cache is not to have.
    """

    project: str
    name: str
    cmd: str | list[str]
    deps: Mapping[str, str]
    params: Mapping[str, Mapping[str, Any]]
    outs: Mapping[str, str]
    uncached: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON: a stage's parameter."""
        return {**asdict(self), "uncached": list(self.uncached)}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> DvcStage:
        """The stage that `to_json` wrote."""
        return cls(**{**body, "uncached": tuple(body["uncached"])})


Sources = Mapping[str, Mapping[str, Path]]
"""Of each out, by its path in the workspace: path inside ("" for a file) → a file that has its bytes."""


def up_to_date(stage: DvcStage, workspace: Path) -> Sources | None:
    """Where the outputs are that dvc.lock says the stage has as things stand: in place, or in DVC's cache. None: it must run.

    Raises OperationFailed when dvc.lock cannot be read, OSError for what it names.
    """
    locked = _stages(read(workspace / stage.project)).get(stage.name)
    if not isinstance(locked, Mapping) or not _is_of(stage, locked):
        return None
    repository = DvcRepository.of(workspace / stage.project)
    said = {
        kind: {str(one["path"]): str(one.get("md5")) for one in locked.get(kind) or ()} for kind in ("deps", "outs")
    }
    if said["deps"].keys() != stage.deps.keys() or said["outs"].keys() != stage.outs.keys():
        return None
    for written, path in stage.deps.items():
        content = repository.content(workspace / path)
        if content is None or content.md5 != said["deps"][written]:
            return None
    found: dict[str, Mapping[str, Path]] = {}
    for written, path in stage.outs.items():
        content = repository.content(workspace / path)
        if content is not None and content.md5 == said["outs"][written]:
            place = workspace / path
            found[path] = {"": place} if content.files is None else {name: place / name for name, _ in content.files}
        elif written not in stage.uncached and (kept := repository.kept(said["outs"][written])) is not None:
            found[path] = kept
        else:
            return None
    return found


def entry_of(stage: DvcStage, workspace: Path, kept: Path) -> dict[str, Any]:
    """The stage's entry of dvc.lock, its outputs as they are below `kept`; those that DVC keeps are put into its cache.

    Raises OSError, and OperationFailed for a dep that is gone.
    """
    repository = DvcRepository.of(workspace / stage.project)
    deps = {
        written: _there(repository, workspace / path, workspace / path) for written, path in sorted(stage.deps.items())
    }
    outs = {written: _there(repository, kept / path, workspace / path) for written, path in sorted(stage.outs.items())}
    for written, content in outs.items():
        if written not in stage.uncached:
            repository.keep(content, kept / stage.outs[written])
    entry: dict[str, Any] = {"cmd": stage.cmd}
    for kind, found in (("deps", deps), ("outs", outs)):
        if kind == "outs" and stage.params:
            entry["params"] = {file: dict(sorted(values.items())) for file, values in stage.params.items()}
        if found:
            entry[kind] = [{"path": written, **content.entry()} for written, content in found.items()]
    return entry


def record(workspace: Path, stage: DvcStage, entry: Mapping[str, Any]) -> None:
    """Have dvc.lock say `entry` of the stage; what it says of others stays. Raises OperationFailed when it cannot be read."""
    from engine.pipelines import yaml12

    project = workspace / stage.project
    with _alone(workspace, project):
        body = read(project)
        stages = _stages(body)
        if stages.get(stage.name) == entry:
            return
        rest = (
            {key: value for key, value in body.items() if key not in ("schema", "stages")} if "schema" in body else {}
        )
        new = {"schema": SCHEMA, "stages": {**stages, stage.name: dict(entry)}, **rest}
        aside = project / f".{FILE}.airboss"
        aside.write_text(yaml12.dump(new), encoding="utf-8")
        os.replace(aside, project / FILE)


def read(project: Path) -> dict[str, Any]:
    """The file's content; empty where there is none. Raises OperationFailed when it cannot be read."""
    try:
        body = _parsed(project / FILE, (project / FILE).read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise OperationFailed(f"{project / FILE} cannot be read: {error.strerror}", hint=_MEND) from error
    return dict(body)


@lru_cache(maxsize=8)
def _parsed(path: Path, content: bytes) -> Mapping[str, Any]:
    """The same bytes are read by each stage of a run: they are parsed once. Nobody may change what it returns."""
    import yaml

    from engine.pipelines import yaml12

    try:
        body = yaml12.load(content.decode("utf-8")) or {}
    except (ValueError, yaml.YAMLError) as error:
        raise OperationFailed(f"{path} cannot be read: {str(error).splitlines()[0]}", hint=_MEND) from error
    if not isinstance(body, dict) or str(body.get("schema", SCHEMA)) != SCHEMA:
        raise OperationFailed(f"{path} is not of schema {SCHEMA}", hint=_MEND)
    return body


_MEND = "resolve its conflict, restore it, or remove it; without it every stage runs once"


def _stages(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a lock says of stages: of schema 1.0, which has no word on itself, all of it."""
    found = body.get("stages") if "schema" in body else body
    return found if isinstance(found, Mapping) else {}


def _is_of(stage: DvcStage, locked: Mapping[str, Any]) -> bool:
    """Whether the entry is of this command with these values."""
    now = (stage.cmd, {file: dict(values) for file, values in stage.params.items()})
    return _canonical(now) == _canonical((locked.get("cmd"), locked.get("params") or {}))


def _canonical(value: object) -> str:
    try:
        return canonical_json(value)
    except (TypeError, ValueError):  # a NaN equals nothing, not even itself
        return repr(value)


def _there(repository: DvcRepository, path: Path, seen_as: Path) -> Content:
    content = repository.content(path, seen_as)
    if content is None:
        raise OperationFailed(f"{seen_as} is gone", hint="dvc.lock must say its md5")
    return content


@contextmanager
def _alone(workspace: Path, project: Path) -> Iterator[None]:
    """Hold the lock of this project's dvc.lock. Let go by this process's death at the latest."""
    locks = workspace / ".airboss" / "cache" / "paths"
    locks.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(f"{project}/{FILE}".encode()).hexdigest()[:32]
    fd = os.open(locks / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
