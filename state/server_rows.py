"""Reading a store in PostgreSQL without an engine: plain queries over one read-only connection, one moment for all of them.

It takes the queries that a SQLite file is asked, with `?` where values go; `sqlmodel` is not imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
from psycopg import conninfo

from state.words import Unreachable

CONNECT_S = 5
STATEMENT_S = 30


class ServerRows:
    """A connection that answers `execute` like sqlite3's. Raises Unreachable when the server does not answer."""

    def __init__(self, url: str, password: str = "") -> None:
        self.shown = url
        given = {"password": password} if password else {}
        options = f"-c search_path=airboss -c default_transaction_read_only=on -c statement_timeout={STATEMENT_S}s"
        try:
            self._connection = psycopg.connect(
                conninfo.make_conninfo(url.replace("+psycopg", "", 1), **given),
                connect_timeout=CONNECT_S, options=options, application_name="airboss-read",
            )  # fmt: skip
            self._connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        except psycopg.Error as error:
            raise self._unreachable(error) from error

    def execute(self, sql: str, values: Sequence[Any] = ()) -> Answered:
        """The rows of a query, read whole."""
        asked = sql.replace("%", "%%").replace("?", "%s")
        try:
            cursor = self._connection.execute(asked, values)
            return Answered(cursor.description or (), cursor.fetchall())
        except psycopg.Error as error:
            raise self._unreachable(error) from error

    def has_tables(self) -> bool:
        """Whether an engine has made a store here yet."""
        return next(iter(self.execute("SELECT to_regclass('kv') IS NOT NULL")))[0] is True

    def close(self) -> None:
        """Let go of the connection."""
        self._connection.close()

    def _unreachable(self, error: psycopg.Error) -> Unreachable:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return Unreachable(
            f"PostgreSQL at {self.shown} does not answer: {lines[0]}",
            hint="`airboss rollback SERVICE --emergency` needs no store; `airboss state backups` lists the copies",
            code="store_unreachable",
        )


class Answered:
    """Rows, and the names of their columns as the first of each entry of `description`."""

    def __init__(self, description: Sequence[Any], rows: list[tuple[Any, ...]]) -> None:
        self.description = description
        self._rows = rows

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self._rows)

    def fetchone(self) -> tuple[Any, ...] | None:
        """The first row."""
        return self._rows[0] if self._rows else None
