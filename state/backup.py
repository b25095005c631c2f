"""Copies of the store by SQLite's online backup, and putting one back. Standard library only."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

from state.words import OperationFailed

KEEP = 14


def back_up(path: Path, *, reason: str) -> Path:
    """Copy the store at `path` into `backups/` beside it, check the copy, prune old ones. Returns the copy."""
    directory = path.with_name("backups")
    directory.mkdir(mode=0o700, exist_ok=True)
    copy = directory / f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{time.time_ns() % 1000:03d}-{reason}.db"
    aside = copy.with_suffix(".part")
    source = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    target = sqlite3.connect(aside)
    try:
        source.backup(target)
        if target.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise OperationFailed(f"the backup of {path} did not check out; it was not kept")
    finally:
        target.close()
        source.close()
    os.replace(aside, copy)
    for old in sorted(directory.glob("*.db"))[:-KEEP]:
        old.unlink()
    return copy


def newest_good(path: Path) -> Path:
    """The newest backup of the store at `path` that checks out. Raises OperationFailed when there is none."""
    for copy in sorted(path.with_name("backups").glob("*.db"), reverse=True):
        try:
            connection = sqlite3.connect(f"file:{copy}?mode=ro", uri=True)
            try:
                if connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",):
                    return copy
            finally:
                connection.close()
        except sqlite3.DatabaseError:
            continue
    raise OperationFailed(
        f"there is no good backup of {path}", hint="backups are kept in the directory `backups` beside the store"
    )


def restore(path: Path, copy: Path) -> Path:
    """Put `copy` in the place of the store at `path`; what stood there is kept. Returns where it is kept.

    The engine must be down; the caller holds its lock.
    """
    kept = path.with_name(f"{path.name}.before-restore-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}")
    if path.exists():
        os.replace(path, kept)
    head = path.with_name("audit.head")
    if head.exists():
        # The chain of the backup ends earlier: the head anchored since is the kept file's.
        os.replace(head, kept.with_name(kept.name + ".audit.head"))
    for suffix in ("-wal", "-shm"):
        beside = path.with_name(path.name + suffix)
        if beside.exists():
            os.replace(beside, kept.with_name(kept.name + suffix))
    source = sqlite3.connect(f"file:{copy}?mode=ro", uri=True)
    target = sqlite3.connect(path)
    try:
        source.backup(target)
    finally:
        target.close()
        source.close()
    path.with_name("restored").touch()
    return kept
