"""The store: one writer thread, one write connection, every write one transaction that no other can interleave.

Values that come out are frozen or plain: a live row never leaves the function given to `write` or `read`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Protocol, TypeVar

import stamina
from sqlalchemy import Engine
from sqlalchemy.exc import DatabaseError, IntegrityError, OperationalError
from sqlmodel import Session

from state import audit
from state.sqlite_file import SqliteFile
from state.words import AirbossError, OperationFailed
from state.write_standing import WriteStanding

T = TypeVar("T")
Heads = tuple[str, str]
"""What the first audit row of a transaction follows, and the hash of its last."""

log = logging.getLogger("airboss.store")

_URGENT, _NORMAL, _STOP = 0, 1, 2
beside: ContextVar[Callable[[Session], None] | None] = ContextVar("beside", default=None)
"""What is to be written at the end of each transaction that is begun in this context: with it, or not at all."""
impatient_until: ContextVar[float] = ContextVar("impatient_until", default=0.0)
"""Until then (monotonic) a write of this context stands behind others only while the store takes them: a person waits."""
CUT_RETRY_S = 30.0
"""So long a write or a read is tried again whose connection broke: a database server restarts in less."""


class Database(Protocol):
    """Where the records are: a SQLite file, or a PostgreSQL server."""

    name: str

    def prepare(self) -> None:
        """Check it, migrate it, make it ours. Raises AirbossError."""

    def engine(self, *, read_only: bool) -> Engine:
        """Connections; a transaction of one that writes is the only one that does."""

    def admit(self, session: Session) -> None:
        """Refuse a write of an engine that the records belong to no longer. Raises Conflict."""

    def receipt(self, session: Session) -> str:
        """What a transaction that is about to commit can be asked for by, should its answer be lost; "" for none."""

    def was_committed(self, receipt: str) -> bool:
        """Whether the transaction of a receipt was committed. Raises OperationalError while nobody can say."""

    def is_cut(self, error: Exception) -> bool:
        """Whether the connection broke: nothing was refused, and trying again may do."""

    def is_full(self, error: Exception) -> bool:
        """Whether a write failed because the disk has no room."""

    def give_room(self) -> None:
        """Free what was kept aside for the hour in which the disk is full."""

    def trouble(self, error: Exception) -> AirbossError:
        """What an error of the database means, in a sentence."""

    def busy_with(self) -> str:
        """Whom a write waits for, in words."""

    def release(self) -> None:
        """Let go of what is held beyond the connections."""

    @property
    def lost(self) -> str:
        """Why the records are no longer ours; "" while they are."""


class Store:
    """Sessions and transactions over one database. Make it with `Store.open`."""

    def __init__(self, path: Path, database: Database | None = None) -> None:
        database = database or SqliteFile(path)
        self.path = path
        """The SQLite file; with another database, where it would be: the audit log's anchor and the plans lie beside it."""
        self.database = database
        self.writes = WriteStanding(database.busy_with)
        """Whether it takes writes just now."""
        self.anchor_trouble = ""
        """Why the audit log's newest head is not anchored beside the store; empty when the last one was."""
        self._writer_engine = database.engine(read_only=False)
        self._reader_engine = database.engine(read_only=True)
        self._queue: queue.PriorityQueue[tuple[int, int, Callable[[Session], Any] | None, Future[Any]]] = (
            queue.PriorityQueue()
        )
        self._order = itertools.count()
        self._readers = ThreadPoolExecutor(max_workers=4, thread_name_prefix="store-read")
        self._thread = threading.Thread(target=self._write_loop, name="store-write", daemon=True)
        self._thread.start()
        self._closed = False

    @classmethod
    def open(cls, path: Path, database: Database | None = None) -> Store:
        """Create or open the store: checked, migrated (a backup first), ready. Without `database` it is the file at `path`.

        Raises AirbossError as the database's `prepare` does.
        """
        database = database or SqliteFile(path)
        database.prepare()
        return cls(path, database)

    async def write(self, fn: Callable[[Session], T], *, urgent: bool = False) -> T:
        """Run `fn(session)` in one transaction on the writer thread and return its value once it is on disk.

        Raises Conflict, with nothing written, where `impatient_until` has passed and the store has taken no write since.
        """
        queued = self._submit(fn, urgent)
        done, left_s = asyncio.wrap_future(queued), impatient_until.get() - time.monotonic()
        if left_s > 0:
            await asyncio.wait((done,), timeout=left_s)
            if not done.done() and self.writes.is_stuck and queued.cancel():
                raise self.writes.refusal()
        return await done

    def write_now(self, fn: Callable[[Session], T], *, urgent: bool = False) -> T:
        """`write` for callers outside the event loop."""
        return self._submit(fn, urgent).result()

    async def read(self, fn: Callable[[Session], T]) -> T:
        """Run `fn(session)` on a read connection in a small pool of threads."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self.read_now, fn)

    def read_now(self, fn: Callable[[Session], T]) -> T:
        """`read` for callers outside the event loop."""
        try:
            for attempt in self._again_when_cut():
                with attempt, Session(self._reader_engine) as session:
                    return fn(session)
        except DatabaseError as error:
            raise self.database.trouble(error) from error
        raise AssertionError("a read neither answered nor failed")

    def close(self) -> None:
        """Finish what is queued, then let go of the database."""
        if self._closed:
            return
        self._closed = True
        done: Future[Any] = Future()
        self._queue.put((_STOP, next(self._order), None, done))
        self._thread.join()
        self._readers.shutdown()
        self.database.release()
        self._writer_engine.dispose()
        self._reader_engine.dispose()

    def _submit(self, fn: Callable[[Session], T], urgent: bool) -> Future[T]:
        if self._closed:
            raise OperationFailed("the store is closed", hint="the engine is stopping; try again once it is up")
        result: Future[T] = Future()
        more = beside.get()
        work = fn if more is None else _followed_by(fn, more)
        self._queue.put((_URGENT if urgent else _NORMAL, next(self._order), work, result))
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
            self.writes.begins()
            try:
                value, heads = self._transact(fn, urgent=is_urgent)
            except StoreTrouble as trouble:
                self.writes.ends(trouble.met)
                result.set_exception(trouble.met)
                continue
            except BaseException as error:
                self.writes.ends()
                result.set_exception(error)
                continue
            self.writes.ends()
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
            if not (urgent and self.database.is_full(error)):
                raise self._met(error) from error
        except IntegrityError as error:
            if _is_taken(error):
                raise
            raise self._met(error) from error
        except DatabaseError as error:
            raise self._met(error) from error
        # A rollback must be written even on a full disk: give the reserve back and try once more.
        self.database.give_room()
        try:
            return self._once(fn)
        except DatabaseError as error:
            raise self._met(error) from error

    def _met(self, error: DatabaseError) -> StoreTrouble:
        met = self.database.trouble(error)
        met.__cause__ = error
        return StoreTrouble(met)

    def _once(self, fn: Callable[[Session], T]) -> tuple[T, Heads | None]:
        for attempt in self._again_when_cut():
            with attempt:
                return self._in_one(fn)
        raise AssertionError("a write neither answered nor failed")

    def _in_one(self, fn: Callable[[Session], T]) -> tuple[T, Heads | None]:
        with Session(self._writer_engine, expire_on_commit=False) as session:
            self.database.admit(session)
            value = fn(session)
            session.flush()
            receipt = self.database.receipt(session)
            try:
                session.commit()
            except OperationalError as error:
                # The answer to a commit can be lost after the commit: then it must not be done twice.
                if not (receipt and self.database.is_cut(error) and self._was_committed(receipt)):
                    raise
            prev, head = session.info.get(audit.PREV_KEY), session.info.get(audit.HEAD_KEY)
        return value, (prev, head) if prev is not None and head is not None else None

    def _was_committed(self, receipt: str) -> bool:
        for attempt in self._again_when_cut():
            with attempt:
                return self.database.was_committed(receipt)
        raise AssertionError("a receipt was neither known nor unknown")

    def _again_when_cut(self) -> Iterator[stamina.Attempt]:
        return iter(
            stamina.retry_context(
                on=self.database.is_cut, attempts=None, timeout=CUT_RETRY_S, wait_initial=0.1, wait_max=2.0
            )
        )

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


class StoreTrouble(Exception):
    """The database could not take a write; `met` is what its caller is told."""

    def __init__(self, met: AirbossError) -> None:
        super().__init__(met.message)
        self.met = met


def _followed_by(fn: Callable[[Session], T], more: Callable[[Session], None]) -> Callable[[Session], T]:
    def both(session: Session) -> T:
        value = fn(session)
        more(session)
        return value

    return both


def _is_taken(error: IntegrityError) -> bool:
    """Whether a row with this key is there already: callers know what that means."""
    return "UNIQUE constraint" in str(error.orig) or getattr(error.orig, "sqlstate", "") == "23505"
