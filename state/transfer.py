"""A store in PostgreSQL copied out as a SQLite file, and a SQLite file put in its place: backups have one form everywhere.

So `airboss state backups`, their check and their reading need no server, and a workspace moves from one database to the other
by a backup here and a restore there.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, event, select, text
from sqlalchemy.exc import DatabaseError
from sqlmodel import SQLModel

import state.kept_answers
import state.models  # noqa: F401  (their import fills the metadata)
from state import engine_lease, migrate
from state.backup import MARKER, write_whole
from state.postgres import SCHEMA, Postgres, opening
from state.words import Conflict, OperationFailed

BATCH = 1000


def copy_out(server: Postgres, target: Path) -> None:
    """Write what the server holds at one moment into a new SQLite file. Raises AirbossError, OSError."""
    reading = server.engine(read_only=True)
    try:
        migrate.upgrade(target)
        with reading.connect() as source, _file(target) as there:
            if (found := migrate.current_revision(source)) != migrate.HEAD:
                raise Conflict(
                    f"the store in {server.shown} has schema {found}, and this program copies {migrate.HEAD}",
                    hint="`airboss up -d` upgrades it; then back it up again",
                    code="other_schema",
                )
            _pour(source, there)
        with closing(sqlite3.connect(target)) as file:
            # One file alone: a copy that wants a WAL beside it could not be read where nothing may be written.
            file.execute("PRAGMA journal_mode=DELETE")
    except DatabaseError as error:
        raise server.trouble(error) from error
    finally:
        reading.dispose()


def put_in(server: Postgres, copy: Path, beside: Path, facts: Mapping[str, Any]) -> str:
    """Make the server's store what the SQLite file `copy` holds, in one transaction; what stood there is kept as another schema.

    `beside` is where the SQLite store would be: the anchor there is put away, and `facts` are left for the engine. Returns
    the name of the schema in which the old records are, "" when there were none. Raises Conflict while an engine holds them.
    """
    writing = server.engine(read_only=False, alone=False)
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    kept = f"{SCHEMA}_before_restore_{stamp.lower()}"
    try:
        with opening(writing) as connection:
            had_tables = migrate.current_revision(connection) is not None
            if had_tables:
                _refuse_held(connection, server)
                connection.exec_driver_sql(f"ALTER SCHEMA {SCHEMA} RENAME TO {kept}")
            connection.exec_driver_sql(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
            migrate.upgrade(connection)
            upgraded = _upgraded(copy)
            try:
                with _file(upgraded) as source:
                    _pour(source, connection)
            finally:
                if upgraded != copy:
                    upgraded.unlink()
            _count_on(connection)
    except DatabaseError as error:
        raise server.trouble(error) from error
    finally:
        writing.dispose()
    with suppress(FileNotFoundError):
        os.replace(beside.with_name("audit.head"), beside.with_name(f"audit.head.before-restore-{stamp}"))
    said = {"at": time.time(), "from": str(copy), "kept": kept if had_tables else "", **facts}
    write_whole(beside.with_name(MARKER), json.dumps(said))
    return kept if had_tables else ""


def _refuse_held(connection: Connection, server: Postgres) -> None:
    there = engine_lease.read(connection.execute(text("SELECT value FROM kv WHERE key = 'engine/lease'")).scalar())
    now = float(connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())
    if not engine_lease.may_take(there, server.lease, now):
        raise Conflict(
            f"an engine holds the records in {server.shown} ({there.holder if there else 'unknown'})",
            hint="end it first: `airboss down --yes` in its workspace; what serves goes on",
            code="engine_is_up",
        )


def _pour(source: Connection, target: Connection) -> None:
    """Every row of every table, parents first, but the lease: who holds the records is not one of them."""
    for table in SQLModel.metadata.sorted_tables:
        query = select(table)
        if table.name == "kv":
            query = query.where(table.c.key != engine_lease.KEY)
        for rows in source.execute(query).mappings().partitions(BATCH):
            target.execute(table.insert(), [dict(row) for row in rows])


def _count_on(connection: Connection) -> None:
    """Let numbered rows be numbered on from the last one."""
    for table in SQLModel.metadata.sorted_tables:
        if "id" in table.c and table.c.id.type.python_type is int:
            connection.exec_driver_sql(
                f"SELECT setval(pg_get_serial_sequence('{table.name}', 'id'), (SELECT coalesce(max(id), 0) + 1 FROM {table.name}), false)"
            )


def _upgraded(copy: Path) -> Path:
    """A backup of an older program, brought to our schema in a file beside it; one of ours as it is. Raises AirbossError."""
    if migrate.current_revision(copy) == migrate.HEAD:
        return copy
    aside = copy.with_name(f".{copy.name}.{os.getpid()}")
    try:
        with (
            closing(sqlite3.connect(f"file:{copy}?mode=ro", uri=True)) as here,
            closing(sqlite3.connect(aside)) as there,
        ):
            here.backup(there)
        migrate.upgrade(aside)
    except (sqlite3.DatabaseError, OSError) as error:
        aside.unlink(missing_ok=True)
        raise OperationFailed(
            f"{copy} cannot be read: {error}", hint="take another backup: `airboss state backups`"
        ) from error
    return aside


@contextmanager
def _file(path: Path) -> Iterator[Connection]:
    """A transaction on a SQLite file."""
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 30})

    @event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()
