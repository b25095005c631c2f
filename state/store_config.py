"""`[state]`: where the store is, and its scheduled backups."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import Field, field_validator

from state.config_types import Duration, Table


class BackupConfig(Table):
    """Scheduled backups of the store, this file and the known-good bundles. `every = 0` makes none.

    `to` is a directory, best on another disk; `.airboss/backups` without it. `keep` copies are kept of each reason.
    """

    every: Duration = 3600.0
    keep: int = Field(default=48, ge=1)
    to: Path | None = None
    bundles: bool = True


class StateConfig(Table):
    """The store: SQLite in the workspace, or PostgreSQL at `url` (`postgresql://user@host/database`; see `airboss help state`).

    `password` is `env:NAME` or `file:PATH`; without one the server is asked as libpq does (a password file, peer, a certificate).
    """

    url: str | None = None
    password: str | None = None
    backup: BackupConfig = BackupConfig()

    @field_validator("url")
    @classmethod
    def _postgresql(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if not re.match(r"(postgresql|postgres)(\+psycopg)?://", value):
            raise ValueError(
                "must be postgresql://user@host:port/database; without url the store is SQLite in the workspace"
            )
        if re.match(r"[^/]+//[^@/]*:[^@/]*@", value):
            raise ValueError("holds a password: take it out, and give password = 'env:NAME' or 'file:PATH' beside it")
        return value.replace("postgres://", "postgresql://", 1)

    @field_validator("password")
    @classmethod
    def _reference(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("env:", "file:")):
            raise ValueError("must be env:NAME or file:PATH")
        return value
