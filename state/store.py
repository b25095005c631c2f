"""The store: one writer thread, one write connection, every write one BEGIN IMMEDIATE transaction.

Values that come out are frozen or plain: a live row never leaves the function given to `write` or `read`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlmodel import Session

from state import audit
from state.backup import UNFINISHED, back_up
from state.words import Conflict, OperationFailed, UsageError

T = TypeVar("T")
Heads = tuple[str, str]
"""What the first audit row of a transaction follows, and the hash of its last."""

log = logging.getLogger("airboss.store")

BUSY_TIMEOUT_MS = 30_000
RESERVE_BYTES = 64 * 1024 * 1024
NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "ceph", "glusterfs"})
_URGENT, _NORMAL, _STOP = 0, 1, 2


class Store:
    """Sessions and transactions over one SQLite file. Make it with `Store.open`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.anchor_trouble = ""
        """Why the audit log's newest head is not anchored beside the store; empty when the last one was."""
        self._writer_engine = _engine(path, read_only=False)
        self._reader_engine = _engine(path, read_only=True)
        self._queue: queue.PriorityQueue[tuple[int, int, Callable[[Session], Any] | None, Future[Any]]] = (
            queue.PriorityQueue()
        )
        self._order = itertools.count()
        self._readers = ThreadPoolExecutor(max_workers=4, thread_name_prefix="store-read")
        self._thread = threading.Thread(target=self._write_loop, name="store-write", daemon=True)
        self._thread.start()
        self._closed = False

    @classmethod
    def open(cls, path: Path) -> Store:
        """Create or open the store at `path`: checked, migrated (a backup first), its reserve laid by.

        Raises UsageError on a network file system, OperationFailed when the file is corrupt or the disk full.
        """
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
            raise _store_trouble(error, path) from error
        return cls(path)

    async def write(self, fn: Callable[[Session], T], *, urgent: bool = False) -> T:
        """Run `fn(session)` in one transaction on the writer thread and return its value once it is on disk."""
        return await asyncio.wrap_future(self._submit(fn, urgent))

    def write_now(self, fn: Callable[[Session], T], *, urgent: bool = False) -> T:
        """`write` for callers outside the event loop."""
        return self._submit(fn, urgent).result()

    async def read(self, fn: Callable[[Session], T]) -> T:
        """Run `fn(session)` on a read connection in a small pool of threads."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self.read_now, fn)

    def read_now(self, fn: Callable[[Session], T]) -> T:
        """`read` for callers outside the event loop."""
        try:
            with Session(self._reader_engine) as session:
                return fn(session)
        except DatabaseError as error:
            raise _store_trouble(error, self.path) from error

    def close(self) -> None:
        """Finish what is queued, then let go of the file."""
        if self._closed:
            return
        self._closed = True
        done: Future[Any] = Future()
        self._queue.put((_STOP, next(self._order), None, done))
        self._thread.join()
        self._readers.shutdown()
        self._writer_engine.dispose()
        self._reader_engine.dispose()

    def _submit(self, fn: Callable[[Session], T], urgent: bool) -> Future[T]:
        if self._closed:
            raise OperationFailed("the store is closed", hint="the engine is stopping; try again once it is up")
        result: Future[T] = Future()
        self._queue.put((_URGENT if urgent else _NORMAL, next(self._order), fn, result))
        return result

    def _write_loop(self) -> None:
        while True:
            priority, _, fn, result = self._queue.get()
            if fn is None:
                result.set_result(None)
                return
            if not result.set_running_or_notify_cancel():
                continue
            is_urgent = priority == _URGENT
            try:
                value, heads = self._transact(fn, urgent=is_urgent)
            except BaseException as error:
                result.set_exception(error)
                continue
            # What is urgent is on the disk; the anchor beside it and the system log keep nobody waiting.
            if is_urgent:
                result.set_result(value)
            if heads is not None:
                self._anchor(*heads)
            if not is_urgent:
                result.set_result(value)

    def _transact(self, fn: Callable[[Session], T], *, urgent: bool) -> tuple[T, Heads | None]:
        try:
            return self._once(fn)
        except OperationalError as error:
            if not (urgent and _is_disk_full(error)):
                raise _store_trouble(error, self.path) from error
        except DatabaseError as error:
            if "UNIQUE constraint" in str(error.orig):
                raise
            raise _store_trouble(error, self.path) from error
        # A rollback must be written even on a full disk: give the reserve back and try once more.
        self.path.with_name("reserve").unlink(missing_ok=True)
        try:
            return self._once(fn)
        except DatabaseError as error:
            raise _store_trouble(error, self.path) from error

    def _once(self, fn: Callable[[Session], T]) -> tuple[T, Heads | None]:
        with Session(self._writer_engine, expire_on_commit=False) as session:
            value = fn(session)
            session.commit()
            prev, head = session.info.get(audit.PREV_KEY), session.info.get(audit.HEAD_KEY)
        return value, (prev, head) if prev is not None and head is not None else None

    def _anchor(self, prev: str, head: str) -> None:
        """Anchor a head already committed: what goes wrong here is said, and does not make the write a failed one."""
        path = self.path.with_name("audit.head")
        try:
            trouble = audit.anchor(
                path, head, prev=prev, is_in_chain=lambda hash_: self.read_now(lambda s: audit.contains(s, hash_))
            )
        except Exception as error:  # whatever it is: the writer must outlive it
            trouble = f"the audit log's head could not be anchored in {path}: {error}"
        if trouble and trouble != self.anchor_trouble:
            log.error(trouble)
        self.anchor_trouble = trouble


def _engine(path: Path, *, read_only: bool) -> Engine:
    engine = create_engine(
        f"sqlite:///{path}", connect_args={"timeout": BUSY_TIMEOUT_MS / 1000, "check_same_thread": False}
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
    import os

    if os.statvfs(directory).f_flag & os.ST_RDONLY:
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
    import os

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
        return Conflict(f"another process has held {path} locked for {BUSY_TIMEOUT_MS // 1000} s", code="store_locked")
    if "malformed" in text or "not a database" in text or "corrupt" in text:
        return _corrupt(path, text)
    return OperationFailed(f"the store {path} failed: {text}", code="store")
