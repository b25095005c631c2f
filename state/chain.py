"""The audit log's chain as arithmetic: what a row's hash must be, and whether rows follow from each other. Standard library only."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from state.digests import canonical_json

GENESIS = "0" * 64
_COLUMNS = ("id", "at", "actor", "action", "ref", "reason", "detail", "prev", "hash")
_HASHED = ("at", "actor", "action", "ref", "reason", "detail")


@dataclass(frozen=True, slots=True)
class ChainState:
    """What a verification found. `broken_at` is the first row that does not follow, None when all do."""

    rows: int
    head: str
    broken_at: int | None = None
    why: str = ""

    @property
    def is_whole(self) -> bool:
        """Every row follows from the one before, and the anchor is in the chain."""
        return self.broken_at is None and not self.why


def link(prev: str, row: Mapping[str, Any]) -> str:
    """The hash a row must have after `prev`: sha256(prev ‖ canonical JSON of its content)."""
    body = {name: row[name] for name in _HASHED}
    return hashlib.sha256((prev + canonical_json(body)).encode("utf-8")).hexdigest()


def walk(rows: Iterable[Mapping[str, Any]], anchored: str = "", anchor_name: str = "audit.head") -> ChainState:
    """Follow the chain from its first row; with `anchored`, also demand that this hash is part of it."""
    prev, count, is_anchored = GENESIS, 0, not anchored
    for row in rows:
        if row["prev"] != prev or link(prev, row) != row["hash"]:
            return ChainState(count, prev, broken_at=row["id"], why=f"row {row['id']} does not follow from row {count}")
        prev, count = str(row["hash"]), count + 1
        is_anchored = is_anchored or prev == anchored
    if not is_anchored:
        return ChainState(count, prev, why=f"the head anchored in {anchor_name} is not in the chain: rows were cut off")
    return ChainState(count, prev)


def walk_file(connection: sqlite3.Connection) -> ChainState:
    """Follow the chain in an open SQLite file. Raises sqlite3.DatabaseError."""
    cursor = connection.execute(f"SELECT {', '.join(_COLUMNS)} FROM audit ORDER BY id")
    rows = (dict(zip(_COLUMNS, values, strict=True)) for values in cursor)
    return walk({**row, "detail": _decoded(row["detail"])} for row in rows)


def _decoded(text: str) -> Any:
    """A detail that is no JSON any more was changed by hand: it is left as it is, and no hash will fit it."""
    try:
        return json.loads(text)
    except ValueError:
        return text
