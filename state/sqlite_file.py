"""The store as one SQLite file: how it is opened and written, and what its errors mean. Beside it a reserve and the anchor."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import DatabaseError
from sqlmodel import Session

from state.backup import UNFINISHED, back_up
from state.file_locks import writer_of
from state.words import AirbossError, Conflict, OperationFailed, UsageError
from state.write_standing import MEANWHILE

BUSY_TIMEOUT_MS = 30_000
RESERVE_BYTES = 64 * 1024 * 1024
NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "ceph", "glusterfs"})


class SqliteFile:
    """`state.store.Database` over the file at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = "sqlite"

    def prepare(self) -> None:
        """Create or check the file, migrate it (a backup first), lay its reserve by.

        Raises UsageError on a network file system, OperationFailed when the file is corrupt or the disk full.
        """
        path = self.path
        refuse_network_file_system(path.parent)
        refuse_read_only_file_system(path.parent)
        refuse_half_restored(path)
        existed = path.exists()
        try:
            if existed:
                check_integrity(path)
            from state.migrate import current_revision, upgrade

            refuse_vanished(path, has_schema=current_revision(path) is not None)
            upgrade(path, before=(lambda: back_up(path, reason="upgrade")) if existed else None)
            lay_reserve(path.with_name("reserve"))
        except OSError as error:
            raise OperationFailed(
                f"the store {path} cannot be opened: {error}",
                hint="free disk space or mend the directory's permissions",
            ) from error
        except (DatabaseError, sqlite3.DatabaseError) as error:
            raise self.trouble(error) from error

    def engine(self, *, read_only: bool) -> Engine:
        """Connections to the file; a transaction of one that writes begins as the only writer."""
        engine = create_engine(
            f"sqlite:///{self.path}", connect_args={"timeout": BUSY_TIMEOUT_MS / 1000, "check_same_thread": False}
        )

        @event.listens_for(engine, "connect")
        def _configure(connection: sqlite3.Connection, _record: object) -> None:
            connection.isolation_level = None
            cursor = connection.cursor()
            cursor.execute("PRAGMA journal_mode=WAL")
            cursor.execute("PRAGMA synchronous=FULL")
            cursor.execute("PRAGMA foreign_keys=ON")
            cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
            if read_only:
                cursor.execute("PRAGMA query_only=ON")
            cursor.close()

        @event.listens_for(engine, "begin")
        def _begin(connection: Any) -> None:
            connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

        return engine

    def admit(self, session: Session) -> None:
        """The workspace's lock keeps every other engine out."""

    def receipt(self, session: Session) -> str:
        """A commit to a file answers or fails: no receipt is needed."""
        return ""

    def was_committed(self, receipt: str) -> bool:
        """There are no receipts."""
        return False

    def is_cut(self, error: Exception) -> bool:
        """There is no connection that could break."""
        return False

    @property
    def lost(self) -> str:
        """The file stays ours as long as the workspace's lock does."""
        return ""

    def is_full(self, error: Exception) -> bool:
        """Whether a write failed because the disk has no room."""
        return _is_disk_full(error)

    def give_room(self) -> None:
        """Give the reserve back to the disk: a rollback must be written also when it is full."""
        self.path.with_name("reserve").unlink(missing_ok=True)

    def trouble(self, error: Exception) -> AirbossError:
        """What an error of the database means, in a sentence."""
        return _store_trouble(error, self.path)

    def busy_with(self) -> str:
        """Whom a write waits for, in words."""
        return f"{writer_of(self.path) or 'another process'} to let go of {self.path}"

    def release(self) -> None:
        """Nothing is held beyond the connections."""


def check_integrity(path: Path) -> None:
    """Raise OperationFailed when the file at `path` is not a sound SQLite database."""
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5) as connection:
            rows = connection.execute("PRAGMA quick_check(3)").fetchall()
    except sqlite3.DatabaseError as error:
        raise _store_trouble(error, path) from error
    finally:
        if "connection" in locals():
            connection.close()
    if rows != [("ok",)]:
        raise _corrupt(path, "; ".join(str(row[0]) for row in rows))


def refuse_read_only_file_system(directory: Path) -> None:
    """Raise UsageError when nothing can be written where the store is."""
    if is_read_only(directory / "state.db"):
        raise UsageError(
            f"{directory} is on a file system that is mounted read-only",
            hint="a disk with errors is often remounted so: see `dmesg`, then `mount -o remount,rw`. What serves goes on, and "
            "`airboss status` and `airboss rollback SERVICE --emergency` work meanwhile",
            code="read_only_fs",
        )


def refuse_half_restored(path: Path) -> None:
    """Raise OperationFailed when a restore of the store at `path` was killed on its way: what is there may be none."""
    if path.with_name(UNFINISHED).exists():
        raise OperationFailed(
            f"a restore of {path} did not finish; the store is not opened",
            hint="run `airboss state restore` again; what stood there before is kept beside it",
            code="half_restored",
        )


def refuse_vanished(path: Path, *, has_schema: bool) -> None:
    """Raise OperationFailed when a store was here, as its anchored audit head says, and there is none or an empty one now.

    A new one in its place would know no release and no rollout, and the engine would take what serves for strays.
    """
    head = path.with_name("audit.head")
    if head.exists() and not has_schema:
        raise OperationFailed(
            f"the store {path} is {'empty' if path.exists() else 'gone'}, and {head.name} beside it says that there was one",
            hint="`airboss state restore` brings back the newest good backup; to begin anew, move that file away. "
            "`airboss rollback SERVICE --emergency` works meanwhile",
            code="store_gone",
        )


def lay_reserve(path: Path) -> None:
    """Keep RESERVE_BYTES of the disk aside so that a rollback can still be written when it is full.

    A disk without that much room is a warning that `doctor` gives, not an error: the engine must come up.
    """
    if path.exists() and path.stat().st_size >= RESERVE_BYTES:
        return
    try:
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, RESERVE_BYTES)
    except OSError:
        path.unlink(missing_ok=True)


def refuse_network_file_system(directory: Path) -> None:
    """Raise UsageError when `directory` is on a file system without working locks (flock, WAL)."""
    resolved = str(directory.resolve())
    best, kind = "", ""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in mounts:
        fields = line.split()
        where = fields[1].replace("\\040", " ")
        if (resolved == where or resolved.startswith(where.rstrip("/") + "/")) and len(where) >= len(best):
            best, kind = where, fields[2]
    if kind in NETWORK_FILE_SYSTEMS:
        raise UsageError(
            f"{directory} is on a network file system ({kind}), where SQLite's locks do not hold",
            hint="keep the workspace on a local disk",
            code="network_fs",
        )


def _is_disk_full(error: Exception) -> bool:
    return "disk is full" in str(error) or "No space left" in str(error)


def _corrupt(path: Path, what: str) -> OperationFailed:
    return OperationFailed(
        f"the store {path} is damaged: {what}",
        hint="`airboss state restore` brings back the newest good backup; the damaged file is kept beside it",
        code="store_corrupt",
    )


def _store_trouble(error: Exception, path: Path) -> OperationFailed | Conflict:
    text = str(getattr(error, "orig", error))
    if _is_disk_full(error):
        return OperationFailed(
            f"the disk that holds {path} is full; nothing was written",
            hint="free space there; a rollback can still be written, from the reserve",
            code="disk_full",
        )
    if "locked" in text:
        holder = writer_of(path)
        return Conflict(
            f"{holder or 'another process'} has held {path} locked for {BUSY_TIMEOUT_MS // 1000} s; nothing was written",
            hint=f"{'wait for it, or end it' if holder else f'`fuser -v {path}` names it'}, then ask again. {MEANWHILE}",
            code="store_locked",
        )
    if "malformed" in text or "not a database" in text or "corrupt" in text:
        return _corrupt(path, text)
    if "readonly" in text or is_read_only(path):
        return OperationFailed(
            f"{path} is read-only: {_why_read_only(path)}; nothing was written",
            hint=f"put that right, then ask again. {MEANWHILE}",
            code="store_read_only",
        )
    return OperationFailed(f"the store {path} failed: {text}", hint=f"`dmesg` may say why. {MEANWHILE}", code="store")


def is_read_only(path: Path) -> bool:
    """Nothing can be written where the file is: its file system is mounted so."""
    try:
        return bool(os.statvfs(path.parent).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def _why_read_only(path: Path) -> str:
    if is_read_only(path):
        return "its file system is mounted read-only (`dmesg`, `mount -o remount,rw`)"
    return "its permissions, or its directory's, forbid it"
