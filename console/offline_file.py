"""The store's records as rows, read without an engine and read-only: from its file, from its server, or from a backup."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from state.paths import Paths
from state.words import AirbossError, OperationFailed, Unreachable

if TYPE_CHECKING:
    from state.server_rows import ServerRows
    from state.store_config import StateConfig

_JSON_COLUMNS = frozenset(
    {
        "params",
        "metrics",
        "gates",
        "progress",
        "training",
        "serving",
        "policy",
        "labels",
        "detail",
        "matchers",
        "routing",
        "redactions",
    }
)
Row = dict[str, Any]


class ReadOnlyStore:
    """Rows of the store at `paths`. `name` says what is read, in words."""

    def __init__(
        self,
        paths: Paths,
        connection: sqlite3.Connection | ServerRows,
        scratch: tempfile.TemporaryDirectory[str] | None = None,
        name: str = "",
    ) -> None:
        self._paths = paths
        self._db = connection
        self._scratch = scratch
        self.name = name or str(paths.store)
        """What is read, in words."""

    @classmethod
    def open(cls, paths: Paths) -> Self:
        """Open the workspace's store. Raises OperationFailed when there is none, or it cannot be read."""
        if (state := server_of(paths)) is not None:
            return cls._served(paths, state)
        if not paths.store.exists():
            raise _none_yet(paths)
        try:
            return cls(paths, _connect(paths.store))
        except sqlite3.OperationalError:
            # A WAL store wants a shared-memory file beside it; where that may not be written, a copy is read.
            return cls._copied(paths)
        except sqlite3.DatabaseError as error:
            raise damaged(paths.store, error) from error

    @classmethod
    def _served(cls, paths: Paths, state: StateConfig) -> Self:
        from state.databases import password
        from state.server_rows import ServerRows

        assert state.url is not None
        try:
            rows = ServerRows(state.url, password(state, paths))
        except Unreachable as error:
            from state.backup import newest_good

            try:
                copy = newest_good(*([state.backup.to] if state.backup.to else []), paths.backups)
            except OperationFailed:
                raise error from None
            return cls(paths, _connect(copy), name=f"the backup {copy.name}, since {error.message}")
        if not rows.has_tables():
            raise _none_yet(paths)
        return cls(paths, rows, name=state.url)

    @classmethod
    def _copied(cls, paths: Paths) -> Self:
        scratch = tempfile.TemporaryDirectory(prefix="airboss-read-")
        try:
            for suffix in ("", "-wal"):
                source = Path(f"{paths.store}{suffix}")
                if source.exists():
                    shutil.copyfile(source, Path(scratch.name) / f"state.db{suffix}")
            return cls(paths, _connect(Path(scratch.name) / "state.db"), scratch)
        except (OSError, sqlite3.DatabaseError) as error:
            scratch.cleanup()
            raise damaged(paths.store, error) from error

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()
        if self._scratch is not None:
            self._scratch.cleanup()

    def rows(self, sql: str, *values: Any) -> list[Row]:
        """The rows of a query, JSON columns decoded."""
        return list(self._each(sql, *values))

    def _each(self, sql: str, *values: Any) -> Iterator[Row]:
        cursor = self._db.execute(sql, values)
        names = [column[0] for column in cursor.description]
        for row in cursor:
            yield {
                name: json.loads(value) if name in _JSON_COLUMNS and isinstance(value, str) else value
                for name, value in zip(names, row, strict=True)
            }

    def integrity(self) -> str:
        """What SQLite finds wrong with the file; "" when it is sound, or when a server looks after its own."""
        if not isinstance(self._db, sqlite3.Connection):
            return ""
        found = [str(row[0]) for row in self._db.execute("PRAGMA quick_check(5)")]
        return "" if found == ["ok"] else "; ".join(found)


def server_of(paths: Paths) -> StateConfig | None:
    """The `[state]` table of a workspace whose records are on a server. A file that cannot be read names none."""
    from state.config import load_config

    try:
        state = load_config(paths.root).state
    except AirbossError:
        return None
    return state if state.url else None


def has_store(paths: Paths) -> bool:
    """Whether there is something to read without an engine."""
    return paths.store.exists() or server_of(paths) is not None


def _none_yet(paths: Paths) -> OperationFailed:
    return OperationFailed(
        f"{paths.root} has no store yet: no engine has run here", hint="`airboss up -d` starts one", code="no_store"
    )


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=5)
    try:
        connection.execute("SELECT count(*) FROM kv").fetchone()
    except sqlite3.DatabaseError:
        connection.close()
        raise
    return connection


def damaged(path: Path, error: Exception) -> OperationFailed:
    return OperationFailed(
        f"the store {path} cannot be read: {error}",
        hint="`airboss state check` says more; `airboss state restore` brings a backup back",
        code="store",
    )
