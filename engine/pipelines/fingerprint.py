"""Reads what a stage's outputs depend on from the world: its code, outside data, versions. Imports nothing it reads.

The code digest follows imports in the source text, without importing: the engine must not run a stage's code (nor pay
for torch) to know whether it changed.
"""

from __future__ import annotations

import ast
import os
import platform
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.machinery import PathFinder
from pathlib import Path

from state.digests import bundle_digest, canonical_json, file_sha256, hash_files, text_sha256
from state.words import UsageError

OUR_PACKAGES = frozenset({"adapters", "engine", "state"})
"""Followed from any stage, besides the stage's own top-level package. Other packages are named by `environment`."""


def environment() -> dict[str, str]:
    """The versions that change numbers."""
    from importlib.metadata import PackageNotFoundError, version  # a stage's own process has no use for it

    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = "none"
    return {"python": platform.python_version(), "torch": torch, "machine": platform.machine()}


def code_digest(entry: str, code_paths: Sequence[str] = ()) -> str:
    """The digest of the source of `entry`'s module and of every module of ours or of its package that it imports.

    Raises UsageError when the module is not found.
    """
    search = (*sys.path, *code_paths)
    known = _KNOWN.get((entry, search))
    if known is not None and marks_hold(known.marks):
        return known.digest
    began_ns = time.time_ns()
    found = _read_code(entry, search, code_paths)
    marks = _marks({*found.files, *(os.path.dirname(file) for file in found.files), *search})
    if all(mark is None or began_ns - mark[0] > RACY_NS for mark in marks.values()):
        _KNOWN[entry, search] = _Known(marks, found.digest)
    else:
        _KNOWN.pop((entry, search), None)
    return found.digest


def code_marks(entry: str, code_paths: Sequence[str] = ()) -> Marks | None:
    """What says, while it holds, that `code_digest` is what it last was; None where that must be read again."""
    known = _KNOWN.get((entry, (*sys.path, *code_paths)))
    return known.marks if known else None


def marks_hold(marks: Marks) -> bool:
    """Whether files and folders are as they were: by time of change, size and inode, as git's index has it."""
    return _marks(marks) == {path: tuple(mark) if mark else None for path, mark in marks.items()}


Marks = Mapping[str, Sequence[int] | None]
RACY_NS = 100_000_000
"""What changed this shortly before it was read may change again and keep its time: it is not remembered."""


@dataclass(frozen=True, slots=True)
class _Known:
    marks: Marks
    digest: str


@dataclass(frozen=True, slots=True)
class _Code:
    digest: str
    files: frozenset[str]


_KNOWN: dict[tuple[str, tuple[str, ...]], _Known] = {}


def _marks(paths: Iterable[str]) -> dict[str, tuple[int, int, int] | None]:
    found: dict[str, tuple[int, int, int] | None] = {}
    for path in paths:
        try:
            stat = os.stat(path)
        except OSError:
            found[path] = None
            continue
        found[path] = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
    return found


def _read_code(entry: str, search: Sequence[str], code_paths: Sequence[str]) -> _Code:
    module = entry.partition(":")[0]
    if module_file(module, search) is None:
        raise UsageError(
            f"the stage {entry} is not to be found: there is no module {module}",
            hint=f"looked in the interpreter's path{' and ' + ', '.join(code_paths) if code_paths else ''}",
            code="no_such_entry",
        )
    followed = OUR_PACKAGES | {module.partition(".")[0]}
    sources: dict[str, str] = {}
    files: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = module_file(name, search)
        if name in sources or path is None:
            continue
        sources[name] = file_sha256(path)
        files.add(str(path))
        waiting += [found for found in _imports(path, sources[name], name) if found.partition(".")[0] in followed]
    return _Code(text_sha256(canonical_json(sources)), frozenset(files))


def module_file(name: str, search: Sequence[str]) -> Path | None:
    """The source file of module `name` on `search`, found without importing; None for none or no plain source."""
    where: Sequence[str] | None = search
    parts = name.split(".")
    for depth in range(1, len(parts) + 1):
        spec = PathFinder.find_spec(".".join(parts[:depth]), where)
        if spec is None:
            return None
        if depth == len(parts):
            return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
        where = list(spec.submodule_search_locations or ())
    return None


@lru_cache(maxsize=1024)
def _imports(path: Path, sha256: str, name: str) -> tuple[str, ...]:
    """Modules that the source at `path` imports anywhere in it. `sha256` makes the memory follow the content."""
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except SyntaxError:
        return ()  # It will fail in its own process, where the error is shown; its bytes are in the digest already.
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    return tuple(_imported(tree, package))


def _imported(tree: ast.AST, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def source_digest(value: str, workspace: Path) -> str:
    """The digest of outside data: a file, or all visible files of a folder. Relative paths are the workspace's.

    Hidden files are left out as stages leave them out: a folder may be the workspace, whose own state changes always.
    Raises UsageError when there is nothing at the path, or it cannot be read.
    """
    path = workspace / Path(value).expanduser()
    try:
        if path.is_file():
            return file_sha256(path)
        if path.is_dir():
            return bundle_digest(hash_files(path, _visible_names(path)))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", hint="make it readable for this user") from error
    raise UsageError(f"{path} does not exist", hint="name a file or a folder that this host has", code="no_such_source")


def _visible_names(root: Path) -> Iterator[str]:
    for folder, below, names in os.walk(root):
        below[:] = [name for name in below if not name.startswith(".")]
        for path in (Path(folder, name) for name in names if not name.startswith(".")):
            if path.is_file() and not path.is_symlink():
                yield path.relative_to(root).as_posix()


def data_marks(paths: Sequence[str], workspace: Path) -> Marks:
    """Time of change, size and inode of every visible file there: what says, without reading them, that they may have changed.

    Raises OSError for a path that is not there.
    """
    found: dict[str, tuple[int, int, int] | None] = {}
    for value in paths:
        path = workspace / Path(value).expanduser()
        path.stat()
        files = [str(path)] if path.is_file() else [str(path / name) for name in _visible_names(path)]
        found |= _marks(files)
    return found
