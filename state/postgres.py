"""The store on a PostgreSQL server: the same tables, in a schema of their own, written by one engine at a time.

BEGIN IMMEDIATE's place is taken by an advisory lock that lasts as long as the transaction; the workspace's flock is joined by
a lease in the store (`state.engine_lease`), whose token each write looks at.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Integer, create_engine, event, text
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlmodel import Session

from state import engine_lease
from state.engine_lease import RENEW_S, TTL_S
from state.postgres_server import WholeNumber, refuse_unfit, server_url, without_nul
from state.words import AirbossError, Conflict, OperationFailed, Unreachable, UsageError

log = logging.getLogger("airboss.store")

SCHEMA = "airboss"
CONNECT_S = 10
LOCK_S = 30
STATEMENT_S = 120
WRITER_LOCK, OPENING_LOCK = 0x41495242, 0x41495243
"""Keys of advisory locks: one writer, and one engine that opens, migrates or takes the lease."""
WAIT_S = 1.0


class Postgres:
    """`state.store.Database` over the server at `url` (`postgresql://user@host/database`), for the workspace at `root`."""

    def __init__(self, url: str, root: Path, password: str = "") -> None:
        self.url = server_url(url, password)
        self.shown = self.url.set(drivername="postgresql").render_as_string(hide_password=True)
        self.name = f"postgresql at {self.url.host or 'its socket'}"
        self.lease = engine_lease.mine(root)
        self._lost = ""
        self._over = threading.Event()
        self._renewer: threading.Thread | None = None
        self._renewing: Engine | None = None

    def prepare(self) -> None:
        """Connect, wait until no other engine holds the records, migrate them, hold them.

        Raises Unreachable when the server does not answer, UsageError when it cannot serve as a store.
        """
        engine = self._renewing = self.engine(read_only=False, alone=False)
        try:
            with engine.begin() as connection:
                refuse_unfit(connection, self.shown)
                connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
            self._take(engine)
        except DatabaseError as error:
            raise self.trouble(error) from error
        self._renewer = threading.Thread(target=self._renew, name="store-lease", daemon=True)
        self._renewer.start()

    def engine(self, *, read_only: bool, alone: bool = True) -> Engine:
        """Connections in our schema; reading sees one moment. `alone`: a transaction that writes is the only one."""
        settings = [
            f"-c search_path={SCHEMA}",
            f"-c lock_timeout={LOCK_S}s",
            f"-c statement_timeout={STATEMENT_S}s",
            f"-c idle_in_transaction_session_timeout={STATEMENT_S}s",
            "-c synchronous_commit=on",
            *(["-c default_transaction_read_only=on"] if read_only else []),
        ]
        engine = create_engine(
            self.url,
            isolation_level="REPEATABLE READ" if read_only else "READ COMMITTED",
            pool_pre_ping=True,
            connect_args={
                "connect_timeout": CONNECT_S,
                "application_name": "airboss",
                "client_encoding": "UTF8",
                "options": " ".join(settings),
                # A server whose host died says nothing: ask after half a minute, give up after as much again.
                "keepalives": 1,
                "keepalives_idle": 15,
                "keepalives_interval": 5,
                "keepalives_count": 3,
            },
        )
        engine.dialect.colspecs = {**engine.dialect.colspecs, Integer: WholeNumber}
        if not read_only:
            event.listen(engine, "before_cursor_execute", without_nul, retval=True)
        if not read_only and alone:

            @event.listens_for(engine, "begin")
            def _alone(connection: Connection) -> None:
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITER_LOCK})")

        return engine

    def admit(self, session: Session) -> None:
        """Look at the lease's token in the same transaction: a write of an engine that lost it is refused."""
        there = engine_lease.read(_lease_row(session.connection(), is_kept=True))
        if self._lost or there is None or there.token != self.lease.token:
            raise self._fenced(there)

    def receipt(self, session: Session) -> str:
        """The transaction's number, "" when it has written nothing."""
        return str(session.connection().execute(text("SELECT pg_current_xact_id_if_assigned()::text")).scalar() or "")

    def was_committed(self, receipt: str) -> bool:
        """Ask the server how that transaction ended. One still open is asked for again: its connection is dying."""
        assert self._renewing is not None
        asked = text("SELECT pg_xact_status(CAST(:receipt AS xid8))")
        with self._renewing.begin() as connection:
            while (said := connection.execute(asked, {"receipt": receipt}).scalar()) == "in progress":
                time.sleep(0.05)
        return said == "committed"

    def is_cut(self, error: Exception) -> bool:
        """Whether the connection broke, or the server shuts down or starts."""
        if not isinstance(error, DatabaseError):
            return False
        state = getattr(error.orig, "sqlstate", None) or ""
        is_refused = state[:2] in {"28", "3D"} or "authentication failed" in str(error.orig)
        gone = state[:2] == "08" or state in {"57P01", "57P02", "57P03"}
        return (
            gone or error.connection_invalidated or (isinstance(error, OperationalError) and not (state or is_refused))
        )

    def is_full(self, error: Exception) -> bool:
        """Whether the server's disk is full."""
        return getattr(getattr(error, "orig", None), "sqlstate", "") == "53100"

    def give_room(self) -> None:
        """The disk is the server's: nothing of ours lies on it."""

    def trouble(self, error: Exception) -> AirbossError:
        """What an error of the server means, in a sentence."""
        orig = getattr(error, "orig", error)
        said = str(orig).strip().splitlines()[0] if str(orig).strip() else type(orig).__name__
        state = getattr(orig, "sqlstate", None) or ""
        if state[:2] in {"28", "3D"} or "authentication failed" in said or ("does not exist" in said and not state):
            return UsageError(
                f"PostgreSQL at {self.shown} does not let us in: {said}",
                hint="mend [state] url and password in airboss.toml, or `createuser` and `createdb -E UTF8` there",
                code="store_denied",
            )
        if self.is_full(error):
            return OperationFailed(
                f"the disk of PostgreSQL at {self.shown} is full; nothing was written",
                hint="free space there; `airboss rollback SERVICE --emergency` works meanwhile",
                code="disk_full",
            )
        if state in {"55P03", "57014"}:
            return Conflict(
                f"PostgreSQL at {self.shown} kept us waiting for {LOCK_S} s or more: {said}", code="store_locked"
            )
        if isinstance(error, DatabaseError) and self.is_cut(error):
            return Unreachable(
                f"PostgreSQL at {self.shown} does not answer: {said}",
                hint="what serves goes on; `airboss rollback SERVICE --emergency` works meanwhile",
                code="store_unreachable",
            )
        return OperationFailed(f"the store in PostgreSQL at {self.shown} failed: {said}", code="store")

    def busy_with(self) -> str:
        """Whom a write waits for, in words."""
        return f"PostgreSQL at {self.shown}"

    def release(self) -> None:
        """Give the lease back, so that an engine that waits goes on at once."""
        self._over.set()
        if self._renewer is not None:
            self._renewer.join()
        if self._renewing is None:
            return
        try:
            with opening(self._renewing) as connection:
                there = engine_lease.read(_lease_row(connection))
                if there is not None and there.token == self.lease.token:
                    connection.execute(text("DELETE FROM kv WHERE key = :key"), {"key": engine_lease.KEY})
        except DatabaseError as error:
            log.warning("the lease could not be given back, and ends by itself in %.0f s: %s", TTL_S, error.orig)
        self._renewing.dispose()

    @property
    def lost(self) -> str:
        """Why the records are another engine's now; "" while they are ours."""
        return self._lost

    def _take(self, engine: Engine) -> None:
        from state.migrate import current_revision, upgrade

        said = ""
        while True:
            with opening(engine) as connection:
                has_tables = current_revision(connection) is not None
                there = engine_lease.read(_lease_row(connection)) if has_tables else None
                if engine_lease.may_take(there, self.lease, _now(connection)):
                    upgrade(connection)
                    _write_lease(connection, replace(self.lease, ends_at=_now(connection) + TTL_S))
                    return
            if there is not None and there.holder != said:
                said = there.holder
                log.warning("the records in %s are held by an engine (%s); waiting until it ends", self.shown, said)
            time.sleep(WAIT_S)

    def _renew(self) -> None:
        assert self._renewing is not None
        while not self._over.wait(RENEW_S):
            try:
                with opening(self._renewing) as connection:
                    there = engine_lease.read(_lease_row(connection))
                    if there is None or there.token != self.lease.token:
                        self._lost = str(self._fenced(there))
                        log.error(self._lost)
                        return
                    _write_lease(connection, replace(self.lease, ends_at=_now(connection) + TTL_S))
            except DatabaseError as error:
                # Nobody else can take it either while the server is away; whoever took it meanwhile is seen afterwards.
                log.warning("the lease could not be renewed, it is tried again: %s", error.orig)

    def _fenced(self, there: engine_lease.EngineLease | None) -> Conflict:
        who = f"{there.holder} holds them" if there is not None else "nobody holds them"
        return Conflict(
            f"the records in {self.shown} are not this engine's any more: {who}; nothing was written",
            hint="this engine ends, and what it serves goes on; `airboss up -d` waits until the records are free",
            code="fenced",
        )


@contextmanager
def opening(engine: Engine) -> Iterator[Connection]:
    """A transaction of the one engine that takes, renews or gives back the lease now."""
    with engine.begin() as connection:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({OPENING_LOCK})")
        yield connection


def _now(connection: Connection) -> float:
    return float(connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())


def _lease_row(connection: Connection, *, is_kept: bool = False) -> str | None:
    """The lease's row; kept, nobody changes it until the transaction that read it has ended."""
    lock = " FOR SHARE" if is_kept else ""
    asked = text(f"SELECT value FROM kv WHERE key = :key{lock}")
    found: Any = connection.execute(asked, {"key": engine_lease.KEY}).scalar()
    return found if found is None else str(found)


def _write_lease(connection: Connection, lease: engine_lease.EngineLease) -> None:
    connection.execute(
        text(
            "INSERT INTO kv (key, value) VALUES (:key, :value) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
        ),
        {"key": engine_lease.KEY, "value": lease.text()},
    )
