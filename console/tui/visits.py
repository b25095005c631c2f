"""Where one has been in the console, as a browser knows it: back, forth, and a new way cuts off what was ahead. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from console.tui.scene import Item

MOST = 100


@dataclass(frozen=True, slots=True)
class Visit:
    """A list, or an object opened from it. `forward` of a lineage page."""

    view: str
    item: Item | None = None
    ref: str = ""
    """Of a lineage page: what it is about."""


class Visits:
    """Visits in order, and which of them one is on."""

    def __init__(self) -> None:
        self._visits: list[Visit] = []
        self._at = -1

    def note(self, visit: Visit) -> None:
        """One went somewhere; the same place again is no new visit."""
        if 0 <= self._at < len(self._visits) and self._visits[self._at] == visit:
            return
        self._visits = [*self._visits[: self._at + 1], visit][-MOST:]
        self._at = len(self._visits) - 1

    def go(self, how: int) -> Visit | None:
        """The visit before (-1) or after (1), which one is on from now; None at the end."""
        there = self._at + how
        if not 0 <= there < len(self._visits):
            return None
        self._at = there
        return self._visits[there]
