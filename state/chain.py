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
COLUMNS = ("id", "at", "actor", "action", "ref", "reason", "detail", "prev", "hash")
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


@dataclass(slots=True)
class Walk:
    """A walk along the chain that can stop between two rows and go on later. `anchored`: a hash that must be on its way."""

    anchored: str = ""
    prev: str = GENESIS
    rows: int = 0
    last_id: int = 0
    broken_at: int | None = None

    def take(self, rows: Iterable[Mapping[str, Any]]) -> bool:
        """Follow more rows, from where it stands. Returns whether all of them follow."""
        for row in rows:
            if row["prev"] != self.prev or link(self.prev, row) != row["hash"]:
                self.broken_at = row["id"]
                return False
            self.prev, self.rows, self.last_id = str(row["hash"]), self.rows + 1, int(row["id"])
            if self.prev == self.anchored:
                self.anchored = ""
        return True

    def found(self, anchor_name: str = "audit.head") -> ChainState:
        """What it has found so far; that the anchor was not met counts, so ask at the end."""
        why = f"row {self.broken_at} does not follow from row {self.last_id}" if self.broken_at is not None else ""
        if not why and self.anchored:
            why = f"the head anchored in {anchor_name} is not in the chain: rows were cut off"
        return ChainState(self.rows, self.prev, broken_at=self.broken_at, why=why)


def walk(rows: Iterable[Mapping[str, Any]], anchored: str = "", anchor_name: str = "audit.head") -> ChainState:
    """Follow the chain from its first row; with `anchored`, also demand that this hash is part of it."""
    whole = Walk(anchored)
    whole.take(rows)
    return whole.found(anchor_name)


def walk_file(connection: sqlite3.Connection) -> ChainState:
    """Follow the chain in an open SQLite file. Raises sqlite3.DatabaseError."""
    cursor = connection.execute(f"SELECT {', '.join(COLUMNS)} FROM audit ORDER BY id")
    rows = (dict(zip(COLUMNS, values, strict=True)) for values in cursor)
    return walk({**row, "detail": _decoded(row["detail"])} for row in rows)


def _decoded(text: str) -> Any:
    """A detail that is no JSON any more was changed by hand: it is left as it is, and no hash will fit it."""
    try:
        return json.loads(text)
    except ValueError:
        return text
