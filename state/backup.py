"""Copies of the store by SQLite's online backup, and putting one back. Standard library only."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from state.words import OperationFailed

KEEP = 14
"""Copies kept of each reason, unless airboss.toml says otherwise."""
MARKER = "restored"
"""Beside the store after a restore, until the engine has read it: what was put back, by whom and why."""
UNFINISHED = "restore.unfinished"
"""Beside the store while a restore moves files: whoever finds it finds half of one."""
_OURS = re.compile(r"\d{8}T\d{6}-\d{6}-[\w-]+")
"""STAMP-REASON, as `back_up` names a copy: a directory for backups may hold other people's files too."""


def back_up(
    path: Path,
    *,
    reason: str,
    directory: Path | None = None,
    keep: int = KEEP,
    copier: Callable[[Path], None] | None = None,
) -> Path:
    """Copy the store at `path` into `directory` (`backups/` beside it), check the copy, prune those of the same reason.

    `copier` writes the copy of a store that is no file at `path`.

    Returns the copy. Raises OperationFailed when the copy does not check out, OSError when the disk cannot take it.
    """
    directory = directory or path.with_name("backups")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    seconds, rest = divmod(time.time_ns(), 10**9)
    stamp = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(seconds))}-{rest // 1000:06d}"
    copy = directory / f"{stamp}-{reason}.db"
    aside = copy.with_suffix(".part")
    try:
        if copier is not None:
            copier(aside)
        else:
            _copy(path, aside)
        trouble = unsound(aside)
        if trouble:
            raise OperationFailed(f"the backup of {path} did not check out ({trouble}); it was not kept")
        os.replace(aside, copy)
    except sqlite3.DatabaseError as error:
        if "full" in str(error):
            raise OSError(f"no room for a copy of {path} in {directory}: {error}") from error
        raise
    finally:
        aside.unlink(missing_ok=True)
    # Never the one just made, also where the clock was set back and its name sorts before the others.
    for old in [other for other in copies(directory, reason) if other != copy][: -(keep - 1) or None]:
        old.unlink(missing_ok=True)
    return copy


def copies(directory: Path, reason: str = "*") -> list[Path]:
    """Every copy of a store in `directory`, oldest first."""
    return sorted(path for path in directory.glob(f"*-{reason}.db") if is_ours(path))


def is_ours(path: Path) -> bool:
    """Whether a file's name is one that a backup gives: nothing else in its directory is ever read or removed."""
    return _OURS.fullmatch(path.stem) is not None


def unsound(path: Path) -> str:
    """What SQLite finds wrong with the file at `path`; "" when it is a sound store."""
    try:
        with closing(read_only(path)) as connection:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()
            connection.execute("SELECT count(*) FROM audit").fetchone()
    except sqlite3.DatabaseError as error:
        return str(error)
    return "" if found == ("ok",) else str(found[0])


def newest_good(*directories: Path) -> Path:
    """The newest copy in these directories that checks out. Raises OperationFailed when there is none."""
    found = [copy for directory in directories for copy in copies(directory)]
    for copy in sorted(found, key=lambda path: path.name, reverse=True):
        if not unsound(copy):
            return copy
    places = ", ".join(str(directory) for directory in directories)
    raise OperationFailed(
        f"there is no good backup in {places}", hint="`airboss state restore FILE` takes one from elsewhere"
    )


def restore(path: Path, copy: Path, facts: Mapping[str, Any] | None = None) -> Path:
    """Put `copy` in the place of the store at `path`; what stood there is kept. Returns where it is kept.

    `facts` (who, why) are left for the engine. It must be down; the caller holds its lock. One that was killed on the
    way leaves UNFINISHED behind, with which no store is opened; run again, it goes on.
    """
    aside = path.with_name(f".{path.name}.restoring")
    aside.unlink(missing_ok=True)
    _copy(copy, aside)
    kept = path.with_name(f"{path.name}.before-restore-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}")
    unfinished = path.with_name(UNFINISHED)
    write_whole(unfinished, json.dumps({"from": str(copy), "kept": str(kept)}))
    if path.exists():
        os.replace(path, kept)
    # The chain of the backup ends earlier: the head anchored since is the kept file's.
    for beside, name in (("audit.head", ".audit.head"), (f"{path.name}-wal", "-wal"), (f"{path.name}-shm", "-shm")):
        with suppress(FileNotFoundError):
            os.replace(path.with_name(beside), kept.with_name(kept.name + name))
    os.replace(aside, path)
    said = {"at": time.time(), "from": str(copy), "kept": str(kept), **(facts or {})}
    write_whole(path.with_name(MARKER), json.dumps(said))
    unfinished.unlink()
    return kept


def write_whole(path: Path, text: str) -> None:
    """Write a file aside, put it on the disk and rename it: all of it or nothing. Raises OSError."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _copy(source: Path, target: Path) -> None:
    with closing(read_only(source)) as here, closing(sqlite3.connect(target)) as there:
        here.backup(there)
        # One file alone: a copy that wants a WAL beside it could not be read where nothing may be written.
        there.execute("PRAGMA journal_mode=DELETE")


def read_only(path: Path) -> sqlite3.Connection:
    """A connection that changes nothing, and makes no file where there is none. Raises sqlite3.DatabaseError."""
    return sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=30)
