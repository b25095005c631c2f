"""Stage outputs kept by key: written aside, renamed in, verified on every use, one writer at a time.

    cache/<key>/manifest.json     what the outputs are: files with digests, who made them and of what
    cache/<key>/out/              the outputs, with the stage's result.json
    cache/<key>.lock              held by the process that makes them; its death releases it
    cache/.aside/<spawn_id>/out/  outputs in the making
    cache/.same/<sha256>          files of 64 KiB or more, to which equal ones of any entry are hard links

Stages with effects are never looked up by key; their outputs take the same form below the run's own directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.local.child import write_json
from engine.pipelines.sharing import SAME, forget_unshared, share
from engine.pipelines.stage import ERROR_NAME, PROGRESS_NAME, RESERVED_NAMES, RESULT_NAME
from state.digests import FileDigest, bundle_digest, hash_tree

MANIFEST = "manifest.json"
OUT = "out"
ASIDE = ".aside"


class OutputsChanged(Exception):
    """Kept outputs are not what their manifest says; the message names the first difference."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is kept under a key. `digest` covers the outputs, not the execution's own result.json."""

    key: str
    stage: str
    spawn_id: str
    digest: str
    files: tuple[FileDigest, ...]
    made_at: float
    made_of: Mapping[str, Any]

    @classmethod
    def read(cls, entry: Path) -> Manifest:
        """The manifest of the entry directory. Raises FileNotFoundError, or OutputsChanged when it cannot be read."""
        try:
            body = json.loads((entry / MANIFEST).read_text(encoding="utf-8"))
            files = tuple(FileDigest(path, sha256, size) for path, sha256, size in body.pop("files"))
            return cls(files=files, **body)
        except (ValueError, KeyError, TypeError) as error:
            raise OutputsChanged(f"its manifest is unreadable ({error})") from error

    def write(self, entry: Path) -> None:
        """Put the manifest into the entry directory."""
        write_json(
            entry / MANIFEST,
            {
                "key": self.key,
                "stage": self.stage,
                "spawn_id": self.spawn_id,
                "digest": self.digest,
                "files": [[file.path, file.sha256, file.size] for file in self.files],
                "made_at": self.made_at,
                "made_of": dict(self.made_of),
            },
        )


@dataclass(frozen=True, slots=True)
class Place:
    """Where one stage's outputs are to be kept. `entry` is the directory that holds manifest and outputs."""

    entry: Path

    @property
    def out(self) -> Path:
        """The outputs."""
        return self.entry / OUT

    @property
    def lock_path(self) -> Path:
        """Held by whoever makes them."""
        return self.entry.with_name(self.entry.name + ".lock")

    def verified(self, key: str) -> Manifest | None:
        """The manifest, after every output was hashed and found as it says; None when nothing is kept.

        Raises OutputsChanged when something is kept that is not what was made under `key`.
        """
        try:
            manifest = Manifest.read(self.entry)
        except FileNotFoundError:
            if self.entry.exists():
                raise OutputsChanged("its manifest is missing") from None
            return None
        if manifest.key != key:
            raise OutputsChanged(f"its manifest is of another key ({manifest.key[:12]})")
        found = {file.path: file for file in hash_tree(self.out)}
        for file in manifest.files:
            if found.pop(file.path, None) != file:
                raise OutputsChanged(f"{file.path} is missing or was modified")
        if found:
            raise OutputsChanged(f"{min(found)} was added")
        if _digest(manifest.files) != manifest.digest:
            raise OutputsChanged("its manifest was modified")
        return manifest

    def result(self) -> dict[str, Any]:
        """What the stage reported: metrics, gates, facts."""
        body: dict[str, Any] = json.loads((self.out / RESULT_NAME).read_text(encoding="utf-8"))
        return body

    @contextlib.contextmanager
    def making(self) -> Iterator[None]:
        """Hold the place's lock, waiting for whoever has it. It is released by the death of this process at the latest."""
        self.lock_path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(self.lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        held = [fd]
        # A worker forked by the stage shares the lock through this descriptor and would keep it after the stage is dead.
        os.register_at_fork(after_in_child=lambda: _close(held))
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            _close(held)

    def commit(self, aside: Path, *, key: str, stage: str, spawn_id: str, made_of: Mapping[str, Any]) -> Manifest:
        """Make the outputs in `aside/out` the ones kept here, all at once. The caller holds `making()`.

        Raises OutputsChanged when there is a symbolic link among them: what it points at could change unseen.
        """
        for name in (PROGRESS_NAME, ERROR_NAME):
            (aside / OUT / name).unlink(missing_ok=True)
        for path in (aside / OUT).rglob("*"):
            if path.is_symlink():
                raise OutputsChanged(f"{path.relative_to(aside / OUT)} is a symbolic link; outputs must be plain files")
        files = hash_tree(aside / OUT)
        manifest = Manifest(key, stage, spawn_id, _digest(files), files, time.time(), made_of)
        manifest.write(aside)
        if aside.parent == self.entry.parent / ASIDE:
            share(aside / OUT, files, self.entry.parent / SAME)
        if self.entry.exists():
            # Not atomic together with the next line: dying between the two leaves nothing, which is a miss.
            os.replace(self.entry, aside.with_name(f"{aside.name}.old"))
        os.replace(aside, self.entry)
        shutil.rmtree(aside.with_name(f"{aside.name}.old"), ignore_errors=True)
        return manifest


@dataclass(frozen=True, slots=True)
class StageCache:
    """The kept outputs of a workspace."""

    root: Path

    def place(self, key: str) -> Place:
        """Where outputs of `key` are kept."""
        return Place(self.root / key)

    def aside(self, spawn_id: str) -> Path:
        """Where the child `spawn_id` makes its outputs; on the same file system, so that a rename moves them."""
        return self.root / ASIDE / spawn_id

    def drop_aside(self, spawn_id: str) -> None:
        """Remove what the child `spawn_id` left unfinished."""
        shutil.rmtree(self.aside(spawn_id), ignore_errors=True)

    def sweep(self, living: frozenset[str]) -> None:
        """Remove everything unfinished but that of the children in `living`."""
        forget_unshared(self.root / SAME)
        aside = self.root / ASIDE
        for path in aside.iterdir() if aside.is_dir() else ():
            if path.name.removesuffix(".old") not in living:
                shutil.rmtree(path, ignore_errors=True)


def _digest(files: tuple[FileDigest, ...]) -> str:
    return bundle_digest(file for file in files if file.path not in RESERVED_NAMES)


def _close(held: list[int]) -> None:
    while held:
        os.close(held.pop())
