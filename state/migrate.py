"""Bringing a store's schema to this program's, by Alembic; an up-to-date store does not pay for importing it.

A SQLite store is named by its file, one in PostgreSQL by a connection, in whose transaction everything happens.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from state.words import Conflict, OperationFailed

if TYPE_CHECKING:
    from sqlalchemy import Connection

KNOWN = ("0001", "0002", "0003", "0004", "0005", "0006")
HEAD = KNOWN[-1]


def current_revision(where: Path | Connection) -> str | None:
    """The revision of the store in a SQLite file, or behind a connection; None when it has no schema yet."""
    if not isinstance(where, Path):
        return _revision_behind(where)
    if not where.exists():
        return None
    connection = sqlite3.connect(f"file:{where}?mode=ro", uri=True, timeout=30)
    try:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return None
        raise
    finally:
        connection.close()
    return str(row[0]) if row else None


def _revision_behind(connection: Connection) -> str | None:
    from sqlalchemy import text

    if connection.execute(text("SELECT to_regclass('alembic_version')")).scalar() is None:
        return None
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return str(found) if found else None


def upgrade(where: Path | Connection, before: Callable[[], Path] | None = None) -> None:
    """Bring a store to HEAD. `before` runs first when something will change, and returns the backup it made.

    Raises Conflict when a newer program made the store, OperationFailed when the upgrade fails: it is one transaction, so
    that the store is then as it was.
    """
    revision = current_revision(where)
    if revision == HEAD:
        return
    if revision is not None and revision not in KNOWN:
        raise Conflict(
            f"the store {_name(where)} was made by a newer Airboss (schema {revision}; this one knows up to {HEAD})",
            hint="upgrade this program, or restore a backup made before the upgrade",
            code="newer_schema",
        )
    copy = before() if revision is not None and before is not None else None
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from alembic import command

    try:
        command.upgrade(alembic_config(where), "head")
    except Exception as error:
        if revision is None:
            raise
        kept = f", and {copy} is a copy of it" if copy is not None else ""
        raise OperationFailed(
            f"the upgrade of {_name(where)} from schema {revision} to {HEAD} failed: "
            f"{(str(error) or type(error).__name__).splitlines()[0]}; the store is as it was{kept}",
            hint="what serves goes on; start the program of before, or mend the cause and start again. "
            "`airboss rollback SERVICE --emergency` works meanwhile",
            code="upgrade_failed",
        ) from error


def downgrade(where: Path | Connection, revision: str) -> None:
    """Take a store back to `revision` (one step is tested)."""
    from alembic import command

    command.downgrade(alembic_config(where), revision)


def alembic_config(where: Path | Connection) -> Any:
    """Alembic's configuration for a store, without a file."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    if isinstance(where, Path):
        config.set_main_option("sqlalchemy.url", f"sqlite:///{where}".replace("%", "%%"))
    else:
        config.attributes["connection"] = where
    return config


def _name(where: Path | Connection) -> str:
    return str(where) if isinstance(where, Path) else where.engine.url.render_as_string(hide_password=True)
