"""Alembic's entry: online migrations of a store, in batch mode where SQLite needs it, all in one transaction.

A process killed half-way leaves the schema it found: left to itself, sqlite3 commits each DDL statement on its own.
"""

from __future__ import annotations

import sqlite3

from alembic import context
from sqlalchemy import Connection, create_engine, event, text
from sqlmodel import SQLModel

import state.kept_answers
import state.models  # noqa: F401  (their import fills the metadata)

WIDE_NUMBERS = """
SELECT table_name, column_name FROM information_schema.columns
WHERE table_schema = current_schema() AND data_type = 'integer'
"""
LOOSE_TEXT = """
SELECT table_name, column_name FROM information_schema.columns
WHERE table_schema = current_schema() AND data_type IN ('character varying', 'text')
  AND collation_name IS DISTINCT FROM 'C' AND table_name <> 'alembic_version'
"""


def migrate(connection: Connection) -> None:
    """Run what was asked for in the connection's transaction."""
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


def be_like_sqlite(connection: Connection) -> None:
    """Whole numbers of 64 bits, and text in the order of its code points: what the same queries rely on in SQLite."""
    for statement, changed in ((WIDE_NUMBERS, "bigint"), (LOOSE_TEXT, 'varchar COLLATE "C"')):
        for table, column in connection.execute(text(statement)).all():
            connection.exec_driver_sql(f'ALTER TABLE "{table}" ALTER COLUMN "{column}" TYPE {changed}')


def migrate_file(url: str) -> None:
    """Migrate a SQLite file."""
    engine = create_engine(url, connect_args={"timeout": 30})

    @event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    with engine.connect() as connection:
        migrate(connection)
    engine.dispose()


given = context.config.attributes.get("connection")
if given is None:
    migrate_file(context.config.get_main_option("sqlalchemy.url") or "")
else:
    migrate(given)
    be_like_sqlite(given)
