"""Alembic's entry: online migrations of the one SQLite file, in batch mode."""

from __future__ import annotations

from alembic import context
from sqlalchemy import create_engine, text
from sqlmodel import SQLModel

import state.models  # noqa: F401  (its import fills the metadata)

url = context.config.get_main_option("sqlalchemy.url") or ""
engine = create_engine(url, connect_args={"timeout": 30} if url.startswith("sqlite") else {})
with engine.connect() as connection:
    if connection.dialect.name == "sqlite":
        connection.execute(text("PRAGMA journal_mode=WAL"))
        connection.execute(text("PRAGMA synchronous=FULL"))
        connection.commit()
    context.configure(
        connection=connection,
        target_metadata=SQLModel.metadata,
        render_as_batch=True,
        user_module_prefix="sqlmodel.",
        compare_type=True,
    )
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()
engine.dispose()
