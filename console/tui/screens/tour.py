"""The tour: five screens, shown at the first run and by `:tour`."""

from __future__ import annotations

from textual import events

from console.tui.screens.asks import _Panel
from console.tui.text import Line
from console.tui.tour_pages import TITLES, tour_page


class TourScreen(_Panel):
    """One screen after the other. Nothing can be done from here."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def lines(self, width: int) -> list[Line]:
        """The screen one is at."""
        return tour_page(self.number, width)

    def press(self, event: events.Key, *, burst: bool) -> None:
        """On, back, out."""
        if event.key in ("enter", "space", "right", "down", "pagedown"):
            if self.number + 1 == len(TITLES):
                self.dismiss(None)
                return
            self.number += 1
        elif event.key in ("left", "up", "pageup", "backspace"):
            self.number = max(0, self.number - 1)
        elif event.character == "q":
            self.dismiss(None)
            return
        self.paint()
