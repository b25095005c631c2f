"""A long audit log, as years of rollouts write one: made at once, each row following from the one before."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from state import chain

ROWS_A_ROLLOUT = 12


def lengthen(store: Path, rows: int) -> None:
    """Append so many rows to the audit log of the store's file, and anchor the newest beside it."""
    with closing(sqlite3.connect(store)) as file:
        last = file.execute("SELECT id, hash FROM audit ORDER BY id DESC LIMIT 1").fetchone() or (0, chain.GENESIS)
        file.executemany(
            "INSERT INTO audit (id, at, actor, action, ref, reason, detail, prev, hash) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            _rows(*last, rows),
        )
        file.commit()
        (newest,) = file.execute("SELECT hash FROM audit ORDER BY id DESC LIMIT 1").fetchone()
    store.with_name("audit.head").write_text(newest + "\n")


def change_by_hand(store: Path, row: int) -> None:
    """Another hand changes a row, past the triggers that refuse it."""
    with closing(sqlite3.connect(store)) as file:
        for (trigger,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            file.execute(f"DROP TRIGGER {trigger}")
        file.execute("UPDATE audit SET actor = 'user:nobody' WHERE id = ?", (row,))
        file.commit()


def _rows(last_id: int, prev: str, count: int) -> Iterator[tuple[Any, ...]]:
    for number in range(last_id + 1, last_id + count + 1):
        row = {
            "at": 1_700_000_000.0 + number * 30, "actor": "system:engine", "action": "rollout.step_baking",
            "ref": f"rollout:ro-{number // ROWS_A_ROLLOUT}", "reason": "",
            "detail": {"from": "step_applying", "to": "step_baking", "step": number % 4, "revision": number % 30,
                       "message": "25 % of the traffic, being judged", "pause_reason": ""},
        }  # fmt: skip
        hash_ = chain.link(prev, row)
        yield (number, *(json.dumps(v) if isinstance(v, dict) else v for v in row.values()), prev, hash_)
        prev = hash_
