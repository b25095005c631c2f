"""A PostgreSQL server as a store needs it: its address, whether it is fit, and how values are sent to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import BigInteger, Connection, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from state.words import UsageError

OLDEST_SERVER = 130000
"""PostgreSQL 13: what Debian's oldest supported release has."""


class WholeNumber(BigInteger):
    """A whole number as SQLite has it, of 64 bits; sent with its type, as the driver wants it."""

    render_bind_cast = True


def server_url(url: str, password: str = "") -> URL:
    """The address as the driver takes it. Raises UsageError for one that is none, or that holds a password."""
    try:
        made = make_url(url)
    except ArgumentError:
        raise UsageError("state.url is no address of a database", hint="postgresql://user@host:5432/database") from None
    if made.get_backend_name() != "postgresql":
        raise UsageError(
            f"state.url names {made.get_backend_name()!r}; the store is SQLite, or PostgreSQL by its address",
            hint="postgresql://user@host:5432/database",
        )
    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise UsageError(
            "a store in PostgreSQL needs the driver psycopg", hint="install airboss[postgres]", code="no_driver"
        ) from None
    made = made.set(drivername="postgresql+psycopg")
    return made.set(password=password) if password else made


def refuse_unfit(connection: Connection, shown: str) -> None:
    """Raise UsageError when the server or the database cannot hold a store."""
    version = int(connection.execute(text("SHOW server_version_num")).scalar_one())
    if version < OLDEST_SERVER:
        raise UsageError(f"{shown} is PostgreSQL {version // 10000}; 13 or newer is needed")
    encoding = connection.execute(text("SHOW server_encoding")).scalar_one()
    if encoding != "UTF8":
        raise UsageError(
            f"the database at {shown} is encoded in {encoding}, and text of every language must fit into it",
            hint="make one with `createdb -E UTF8 -T template0`",
        )
    if connection.execute(text("SELECT pg_is_in_recovery()")).scalar_one():
        raise UsageError(
            f"{shown} is a standby, which nothing can be written to", hint="name the primary in [state] url"
        )


def without_nul(_c: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> tuple[str, Any]:
    """A program's last words may hold a NUL, which text in PostgreSQL cannot: they must not keep a rollback from being written."""
    if isinstance(parameters, Mapping):
        return statement, {name: _shown(value) for name, value in parameters.items()}
    if isinstance(parameters, list | tuple):
        return statement, [
            {n: _shown(v) for n, v in one.items()} if isinstance(one, Mapping) else _shown(one) for one in parameters
        ]
    return statement, parameters


def _shown(value: Any) -> Any:
    return value.replace("\0", "\ufffd") if isinstance(value, str) and "\0" in value else value
