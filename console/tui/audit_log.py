"""The audit log as the console has it: what is newer is added at each look, what is older comes page by page, newest first."""

from __future__ import annotations

from console.client import EngineClient
from console.rows import Rows
from console.wire import read
from engine.api.schemas import EventView, StatusView

PAGE = 2000
MOST = 100_000
"""Rows that are kept; older ones are `airboss audit list --after`'s to show."""


class AuditLog:
    """Rows without a gap, newest first; the same value while nothing happens."""

    def __init__(self) -> None:
        self._rows: Rows[EventView] = Rows(EventView, [])
        self._has_oldest = False

    def look(self, client: EngineClient, status: StatusView) -> Rows[EventView]:
        """All that is known after one look; two requests at most. Raises AirbossError as the client does."""
        if not self._rows or status.audit_rows < self._rows[0].id:
            # The first look, or a store that was restored: its numbers begin again.
            self._rows, self._has_oldest = Rows(EventView, _newest_first(client.audit_lines(limit=PAGE))), False
            return self._rows
        newer = _newest_first(client.audit_lines(after=self._rows[0].id, limit=PAGE))
        older: list[bytes] = []
        if not self._has_oldest:
            older = _newest_first(client.audit_lines(before=self._rows[-1].id, limit=PAGE))
            self._has_oldest = not older or len(self._rows) + len(older) >= MOST
        if newer or older:
            self._rows = Rows(EventView, [*newer, *self._rows.lines, *older][:MOST])
        return self._rows


def _newest_first(lines: list[bytes]) -> list[bytes]:
    """Rows oldest first, turned round; of a page without order too."""
    if len(lines) > 1 and read(EventView, lines[0]).id > read(EventView, lines[-1]).id:
        return lines
    return lines[::-1]
