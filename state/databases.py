"""Which database a workspace's records are in, by its `[state]` table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from state.secret import read_secret

if TYPE_CHECKING:
    from state.paths import Paths
    from state.store import Database
    from state.store_config import StateConfig


def database(settings: StateConfig, paths: Paths) -> Database:
    """The database of the workspace at `paths`. Raises UsageError for an address that is none, or a secret that is not there."""
    if settings.url is None:
        from state.sqlite_file import SqliteFile

        return SqliteFile(paths.store)
    from state.postgres import Postgres

    return Postgres(settings.url, paths.root, password(settings, paths))


def copier(settings: StateConfig, paths: Paths) -> Callable[[Path], None] | None:
    """What writes a copy of the store as a SQLite file; None where the store is one. Raises UsageError."""
    if settings.url is None:
        return None
    from state.postgres import Postgres
    from state.transfer import copy_out

    server = Postgres(settings.url, paths.root, password(settings, paths))
    return lambda target: copy_out(server, target)


def password(settings: StateConfig, paths: Paths) -> str:
    """The server's password; "" where none is given."""
    return read_secret(settings.password, paths.root) if settings.password else ""
