"""`=`: two releases beside each other."""

from __future__ import annotations

from collections.abc import Iterable

from textual.widget import Widget

from console.tui.scene import Item, Scene
from console.tui.screens.base import ConsoleScreen
from console.tui.side_by_side import compare_page, find_release
from console.tui.text import line
from console.tui.widgets.lines import Page


class CompareScreen(ConsoleScreen):
    """What differs between two releases."""

    view = "item"

    def __init__(self, before: str, after: str, tab: str) -> None:
        super().__init__()
        self._before, self._after, self._tab = before, after, tab

    def body(self) -> Iterable[Widget]:
        """A page."""
        yield Page(id="page")

    @property
    def tab(self) -> str:
        """The list it was opened from."""
        return self._tab

    @property
    def item(self) -> Item | None:
        """The later of the two: what other keys are about."""
        return find_release(self._after, self.scene.snapshot) if self.scene.snapshot is not None else None

    def paint(self, scene: Scene) -> None:
        """The fields that differ."""
        page = self.query_one("#page", Page)
        if scene.snapshot is None:
            return
        found = [find_release(name, scene.snapshot) for name in (self._before, self._after)]
        before, after = found
        if before is None or after is None:
            gone = self._before if before is None else self._after
            page.show([line((f"{gone} is not among the releases that the engine shows", "warn"))], stale=scene.is_stale)
            return
        page.show(compare_page(before, after, page.scrollable_content_region.width), stale=scene.is_stale)

    def status(self) -> str:
        """The same in a shell."""
        return f"airboss release diff {self._before} {self._after}"
