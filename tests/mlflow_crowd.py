"""A registry of a large team, put straight into an MLflow SQLite store: through the API it would take an hour."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

MADE_MS = 1_700_000_000_000


def fill(database: Path, *, models: int, versions: int) -> None:
    """`models` models named team-N/…, with `versions` versions each: two tags a version, three aliases a model, one run."""
    names = [f"{'fraud' if n % 10 == 0 else 'model'}-{n:04d}" for n in range(models)]
    numbers = range(1, versions + 1)
    rows: dict[str, list[dict[str, object]]] = {
        "registered_models": [{"name": n, "creation_time": MADE_MS, "last_updated_time": MADE_MS, "description": ""} for n in names],
        "registered_model_tags": [{"name": n, "key": "team", "value": f"team-{i % 7}"} for i, n in enumerate(names)],
        "model_versions": [
            {"name": n, "version": v, "creation_time": MADE_MS + v, "last_updated_time": MADE_MS + v, "current_stage": "None",
             "source": f"mlflow-artifacts:/{n}/{v}", "run_id": "", "status": "READY", "status_message": "", "storage_location": f"mlflow-artifacts:/{n}/{v}"}
            for n in names for v in numbers
        ],
        "model_version_tags": [
            {"name": n, "version": v, "key": key, "value": value}
            for n in names for v in numbers for key, value in (("git", f"{v:040x}"), ("gate", "pass" if v % 2 else "fail"))
        ],
        "registered_model_aliases": [
            {"name": n, "alias": alias, "version": v}
            for n in names for alias, v in (("champion", versions - 1), ("challenger", versions), ("previous-champion", versions - 2))
        ],
    }  # fmt: skip
    with contextlib.closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        for table, found in rows.items():
            known = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
            columns = [column for column in found[0] if column in known]
            assert len(columns) == len(found[0]), (table, set(found[0]) - known)
            marks = ", ".join("?" for _ in columns)
            connection.executemany(
                f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})",
                ([row[c] for c in columns] for row in found),
            )
