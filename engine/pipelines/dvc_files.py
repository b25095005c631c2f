"""Files and folders as DVC 3 hashes and keeps them: md5, `.dir` objects, `.dvcignore`, the cache's layout. Blocks.

dvc.org/doc/user-guide/project-structure/internal-files; dvc_data's `Tree.as_bytes` for the bytes of a `.dir` object.
"""

from __future__ import annotations

import configparser
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

IGNORE = ".dvcignore"
NEVER = frozenset({".hg/", ".git/", ".git", ".dvc/"})
"""What DVC leaves out whatever a .dvcignore says; `/` after a folder's name."""


@dataclass(frozen=True, slots=True)
class Content:
    """What is at a path. `md5` ends in `.dir` for a folder, whose `files` are (path inside, md5) in DVC's order.

    `size` is in bytes, of a folder its files' sum.
    """

    md5: str
    size: int
    is_executable: bool = False
    files: tuple[tuple[str, str], ...] | None = None

    def entry(self) -> dict[str, Any]:
        """As dvc.lock has it, but for the path."""
        more: dict[str, Any] = {"nfiles": len(self.files)} if self.files is not None else {}
        return {"hash": "md5", "md5": self.md5, "size": self.size, **more} | (
            {"isexec": True} if self.is_executable else {}
        )


@dataclass(slots=True)
class DvcRepository:
    """The DVC repository that a project lies in. `root` is the folder with `.dvc`, None where `dvc init` was never run."""

    root: Path | None
    _ignores: dict[Path, GitIgnoreSpec | None] = field(default_factory=dict)

    @classmethod
    def of(cls, project: Path) -> DvcRepository:
        """The repository of the folder `project`: its own, or one above it."""
        return cls(next((one for one in (project, *project.parents) if (one / ".dvc").is_dir()), None))

    def content(self, path: Path, seen_as: Path | None = None) -> Content | None:
        """What is at `path`; None for nothing. A copy of a folder is `seen_as` the one it was made of. Raises OSError."""
        if path.is_dir():
            files: list[tuple[str, str]] = []
            size = 0
            for name in sorted(self._listed(path, seen_as or path)):
                files.append((name, _md5(path / name)))
                size += (path / name).stat().st_size
            return Content(
                f"{hashlib.md5(_tree(files), usedforsecurity=False).hexdigest()}.dir", size, False, tuple(files)
            )
        if not path.is_file():
            return None
        stat = path.stat()
        return Content(_md5(path), stat.st_size, bool(stat.st_mode & 0o100))

    @property
    def cache(self) -> Path | None:
        """Where objects are kept (`cache.dir` of the repository's own configuration); None without a repository."""
        if self.root is None:
            return None
        home = self.root / ".dvc"
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        parser.read([home / "config", home / "config.local"], encoding="utf-8")
        return home / Path(parser.get("cache", "dir", fallback="cache").strip("'\"")).expanduser()

    def keep(self, content: Content, path: Path) -> None:
        """Put what is at `path` (of that content) into the cache, as `dvc commit` does. Raises OSError."""
        cache = self.cache
        if cache is None:
            return
        if content.files is None:
            _keep_file(path, _object(cache, content.md5))
            return
        for name, md5 in content.files:
            _keep_file(path / name, _object(cache, md5))
        with tempfile.NamedTemporaryFile() as tree:
            tree.write(_tree(content.files))
            tree.flush()
            _keep_file(Path(tree.name), _object(cache, content.md5))

    def kept(self, md5: str) -> Mapping[str, Path] | None:
        """Path inside → object of what the cache has under `md5` ("" for a file); None unless all of it is there and intact."""
        cache = self.cache
        if cache is None:
            return None
        whole = _object(cache, md5)
        if not md5.endswith(".dir"):
            return {"": whole} if _is(whole, md5) else None
        if not _is(whole, md5.removesuffix(".dir")):
            return None
        files = {str(one["relpath"]): str(one["md5"]) for one in json.loads(whole.read_bytes())}
        if any(name.startswith("/") or ".." in name.split("/") for name in files):
            return None
        found = {name: _object(cache, md5) for name, md5 in files.items()}
        return found if all(_is(found[name], md5) for name, md5 in files.items()) else None

    def _listed(self, folder: Path, seen_as: Path) -> Iterator[str]:
        for at, below, names in os.walk(folder):
            here = seen_as / Path(at).relative_to(folder)
            below[:] = [name for name in below if not self._is_ignored(here / name, is_dir=True)]
            for name in names:
                if not self._is_ignored(here / name, is_dir=False) and Path(at, name).is_file():
                    yield (here / name).relative_to(seen_as).as_posix()

    def _is_ignored(self, path: Path, *, is_dir: bool) -> bool:
        """By the nearest .dvcignore that has a word on it, else by what DVC never looks at."""
        ending = "/" if is_dir else ""
        if path.name + ending in NEVER:
            return True
        for folder in path.parents if self.root else ():
            spec = self._ignore(folder)
            said = spec.check_file(path.relative_to(folder).as_posix() + ending).include if spec else None
            if said is not None:
                return said
            if folder == self.root:
                break
        return False

    def _ignore(self, folder: Path) -> GitIgnoreSpec | None:
        if folder not in self._ignores:
            path = folder / IGNORE
            self._ignores[folder] = None
            if path.is_file():
                from pathspec import GitIgnoreSpec  # dear to import, and most projects have no such file

                self._ignores[folder] = GitIgnoreSpec.from_lines(path.read_text(encoding="utf-8").splitlines())
        return self._ignores[folder]


def _tree(files: list[tuple[str, str]] | tuple[tuple[str, str], ...]) -> bytes:
    """The bytes of a `.dir` object."""
    return json.dumps([{"md5": md5, "relpath": name} for name, md5 in files], sort_keys=True).encode()


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _object(cache: Path, md5: str) -> Path:
    return cache / "files" / "md5" / md5[:2] / md5[2:]


def _is(path: Path, md5: str) -> bool:
    return path.is_file() and _md5(path) == md5


def _keep_file(source: Path, place: Path) -> None:
    """Copy in, read-only, whole or not at all. What is there already is left alone."""
    if place.exists():
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=place.parent, prefix=".airboss-", delete=False) as aside:
        pass
    try:
        shutil.copyfile(source, aside.name)
        os.chmod(aside.name, 0o444)
        os.replace(aside.name, place)
    finally:
        Path(aside.name).unlink(missing_ok=True)
