"""Widgets that show lines and repaint only the lines that changed: a fixed block, and a page that scrolls."""

from __future__ import annotations

from collections.abc import Sequence

from textual.geometry import Region, Size
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widget import Widget

from console.tui.text import Line, changed_runs
from console.tui.theme import palette_of
from console.tui.widgets.paint import strip_of


def changed_lines(old: Sequence[Line], new: Sequence[Line]) -> list[int]:
    """Indexes at which two blocks of lines differ."""
    longest = max(len(old), len(new))
    return [i for i in range(longest) if i >= len(old) or i >= len(new) or old[i] != new[i]]


class Lines(Widget, can_focus=False):
    """A block as high as its lines."""

    DEFAULT_CSS = "Lines { height: auto; width: 1fr; }"

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._lines: tuple[Line, ...] = ()
        self._stale = False

    def show(self, lines: Sequence[Line], *, stale: bool = False) -> None:
        """Show these lines; asks for a new layout only if their number changed."""
        old, self._lines = self._lines, tuple(lines)
        if len(old) != len(self._lines):
            self.refresh(layout=True)
        elif stale != self._stale:
            self.refresh()
        else:
            for y in changed_lines(old, self._lines):
                for x, cells in changed_runs(old[y], self._lines[y], self.size.width):
                    self.refresh(Region(x, y, cells, 1))
        self._stale = stale

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """As high as its lines."""
        return len(self._lines)

    def render_line(self, y: int) -> Strip:
        """One line."""
        spans = self._lines[y] if y < len(self._lines) else ()
        return strip_of(spans, self.size.width, palette_of(self.app.theme), stale=self._stale)


class Page(ScrollView, can_focus=False):
    """Lines that may be more than fit: scrolled by keys, up and down and sideways."""

    DEFAULT_CSS = """
    Page {
        width: 1fr; height: 1fr; overflow-x: hidden; overflow-y: scroll;
        scrollbar-size-vertical: 1; scrollbar-size-horizontal: 0;
    }
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._lines: tuple[Line, ...] = ()
        self._stale = False
        self._shift = 0
        self.follows = False
        """Stay at the end while lines are added."""

    def show(self, lines: Sequence[Line], *, stale: bool = False) -> None:
        """Show these lines, keeping the place."""
        old, self._lines = self._lines, tuple(lines)
        if len(old) != len(self._lines):
            self.virtual_size = Size(self.scrollable_content_region.width, len(self._lines))
        if stale != self._stale:
            self.refresh()
        else:
            top = round(self.scroll_offset.y)
            for y in changed_lines(old, self._lines):
                if top <= y < top + self.size.height:
                    self._refresh_line_from(
                        y - top, old[y] if y < len(old) else None, self._lines[y] if y < len(self._lines) else None
                    )
        self._stale = stale
        if self.follows:
            self.scroll_to(y=max(0, len(self._lines) - self.size.height), animate=False, force=True)

    def _refresh_line_from(self, y: int, old: Line | None, new: Line | None) -> None:
        width = self.scrollable_content_region.width
        if old is None or new is None or self._shift:
            self.refresh(Region(0, y, width, 1))
            return
        for x, cells in changed_runs(old, new, width):
            self.refresh(Region(x, y, cells, 1))

    def move(self, how: str) -> None:
        """Scroll by one of the registry's moves; moving up stops following, the bottom follows again."""
        height = max(1, self.size.height)
        bottom = max(0, len(self._lines) - height)
        y = round(self.scroll_offset.y)
        step = {
            "up": -1,
            "down": 1,
            "page_up": 1 - height,
            "page_down": height - 1,
            "half_up": -(height // 2),
            "half_down": height // 2,
            "top": -y,
            "bottom": bottom - y,
        }.get(how, 0)
        if how in ("left", "right"):
            self._shift = max(0, self._shift + (8 if how == "right" else -8))
            self.refresh()
        target = min(bottom, max(0, y + step))
        if self.follows and target < bottom:
            self.follows = False
        self.scroll_to(y=target, animate=False, force=True)

    def on_resize(self) -> None:
        """Keep the virtual width that of the widget."""
        self.virtual_size = Size(self.scrollable_content_region.width, len(self._lines))

    def render_line(self, y: int) -> Strip:
        """One line of what is in view."""
        index = y + round(self.scroll_offset.y)
        spans = self._lines[index] if index < len(self._lines) else ()
        return strip_of(
            spans,
            self.scrollable_content_region.width,
            palette_of(self.app.theme),
            stale=self._stale,
            shift=self._shift,
        )
