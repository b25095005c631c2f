"""Alembic's entry: online migrations of the one SQLite file, in batch mode, all in one transaction.

A process killed half-way leaves the schema it found: left to itself, sqlite3 commits each DDL statement on its own.
"""

from __future__ import annotations

import sqlite3

from alembic import context
from sqlalchemy import Connection, create_engine, event
from sqlmodel import SQLModel

import state.models  # noqa: F401  (its import fills the metadata)

engine = create_engine(context.config.get_main_option("sqlalchemy.url") or "", connect_args={"timeout": 30})


@event.listens_for(engine, "connect")
def _configure(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")


@event.listens_for(engine, "begin")
def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


with engine.connect() as connection:
    context.configure(
        connection=connection,
        target_metadata=SQLModel.metadata,
        render_as_batch=True,
        user_module_prefix="sqlmodel.",
        compare_type=True,
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
