"""Bringing a store's schema to this program's, by Alembic; an up-to-date store does not pay for importing it."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from state.words import Conflict, OperationFailed

HEAD = "0004"
KNOWN = ("0001", "0002", "0003", "0004")


def current_revision(path: Path) -> str | None:
    """The revision the store at `path` is at, None when it has no schema yet."""
    if not path.exists():
        return None
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)
    try:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return None
        raise
    finally:
        connection.close()
    return str(row[0]) if row else None


def upgrade(path: Path, before: Callable[[], Path] | None = None) -> None:
    """Bring the store at `path` to HEAD. `before` runs first when something will change, and returns the backup it made.

    Raises Conflict when a newer program made the store, OperationFailed when the upgrade fails: it is one transaction, so
    that the store is then as it was.
    """
    revision = current_revision(path)
    if revision == HEAD:
        return
    if revision is not None and revision not in KNOWN:
        raise Conflict(
            f"the store {path} was made by a newer Airboss (schema {revision}; this one knows up to {HEAD})",
            hint="upgrade this program, or restore a backup made before the upgrade",
            code="newer_schema",
        )
    copy = before() if revision is not None and before is not None else None
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from alembic import command

    try:
        command.upgrade(alembic_config(path), "head")
    except Exception as error:
        if copy is None:
            raise
        raise OperationFailed(
            f"the upgrade of {path} from schema {revision} to {HEAD} failed: {(str(error) or type(error).__name__).splitlines()[0]}; "
            f"the store is as it was, and {copy} is a copy of it",
            hint="what serves goes on; start the program of before, or mend the cause and start again. "
            "`airboss rollback SERVICE --emergency` works meanwhile",
            code="upgrade_failed",
        ) from error


def downgrade(path: Path, revision: str) -> None:
    """Take the store at `path` back to `revision` (one step is tested)."""
    from alembic import command

    command.downgrade(alembic_config(path), revision)


def alembic_config(path: Path) -> Any:
    """Alembic's configuration for the store at `path`, without a file."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    config.set_main_option("sqlalchemy.url", f"sqlite:///{path}".replace("%", "%%"))
    return config
