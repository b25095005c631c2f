"""A table that draws what is seen, repaints what changed, and keeps its cursor on an object, not on a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from console.rows import Rows
from console.tui.table import Column, Row, fit, gap_in, header, join, natural_widths
from console.tui.text import Line, changed_runs, line
from console.tui.theme import palette_of
from console.tui.widgets.paint import strip_of

MARK = 2
"""Cells before the first column: where the cursor's mark stands."""


@dataclass(frozen=True, slots=True)
class _Painted:
    """A line as it was painted last."""

    spans: Line
    tone: str = ""
    is_cursor: bool = False


class LineTable(ScrollView, can_focus=False):
    """Objects as rows. A row is made when it comes into view; ten thousand objects cost no more than fifty."""

    DEFAULT_CSS = """
    LineTable {
        width: 1fr; height: 1fr; overflow-x: hidden; overflow-y: scroll;
        scrollbar-size-vertical: 1; scrollbar-size-horizontal: 0;
    }
    """

    class Moved(Message):
        """The cursor is on another object."""

    def __init__(
        self,
        columns: Sequence[Column],
        key: Callable[[Any], str],
        row: Callable[[Any, float], Row],
        *,
        empty: str = "",
        id: str | None = None,
    ) -> None:
        super().__init__(id=id)
        self._columns, self._key, self._row = tuple(columns), key, row
        self._empty = empty
        self._items: Sequence[Any] = ()
        self._now = 0.0
        self._stale = False
        self._made: dict[int, Row] = {}
        self._painted: dict[int, _Painted] = {}
        self._natural: list[int] = []
        self._widths: list[int] = []
        self._cursor = 0
        self._cursor_key: str | None = None

    @property
    def _width(self) -> int:
        return self.scrollable_content_region.width

    @property
    def _height(self) -> int:
        return self.scrollable_content_region.height

    @property
    def item(self) -> Any | None:
        """The object under the cursor."""
        return self._items[self._cursor] if 0 <= self._cursor < len(self._items) else None

    @property
    def count(self) -> int:
        """How many objects there are."""
        return len(self._items)

    def show(self, items: Sequence[Any], now: float, *, stale: bool = False, empty: str | None = None) -> None:
        """Show these objects in this order. The cursor stays on its object; if that is gone, on its neighbour."""
        before = (len(self._items), self._stale, self._empty)
        self._items, self._now, self._stale = items, now, stale
        self._empty = self._empty if empty is None else empty
        self._made.clear()
        self._place_cursor()
        if len(items) != before[0]:
            self.virtual_size = Size(self._width, len(items) + 1)
        if before != (len(items), stale, self._empty) or self._lay_out():
            self._lay_out()
            self.refresh()
        else:
            self._refresh_changed()
        self._keep_in_view()

    def go_to(self, key: str) -> None:
        """Put the cursor on the object with this key, now or when it comes."""
        self._cursor_key = key
        self._place_cursor()
        self._refresh_changed()
        self._keep_in_view()

    def move(self, how: str) -> None:
        """Move the cursor by one of the registry's moves."""
        page = max(1, self._height - 2)
        step = {
            "up": -1,
            "down": 1,
            "page_up": -page,
            "page_down": page,
            "half_up": -(page // 2),
            "half_down": page // 2,
            "top": -len(self._items),
            "bottom": len(self._items),
        }.get(how, 0)
        cursor = min(len(self._items) - 1, max(0, self._cursor + step))
        if cursor == self._cursor or not self._items:
            return
        self._cursor, self._cursor_key = cursor, self._key(self._items[cursor])
        self._keep_in_view()
        self._refresh_changed()
        self.post_message(self.Moved())

    def _place_cursor(self) -> None:
        place = None if self._cursor_key is None else self._place_of(self._cursor_key)
        if place is not None:
            self._cursor = place
        elif self._items:
            self._cursor = min(self._cursor, len(self._items) - 1)
            self._cursor_key = self._key(self._items[self._cursor])

    def _place_of(self, key: str) -> int | None:
        items, here = self._items, self._cursor
        if here < len(items) and self._key(items[here]) == key:
            return here
        if isinstance(items, Rows):
            return items.place_of(key, self._key, here)
        return next((place for place, item in enumerate(items) if self._key(item) == key), None)

    def _keep_in_view(self) -> None:
        top, body = round(self.scroll_offset.y), max(1, self._height - 1)
        if self._cursor < top:
            self.scroll_to(y=self._cursor, animate=False, force=True)
        elif self._cursor >= top + body:
            self.scroll_to(y=self._cursor - body + 1, animate=False, force=True)

    def on_resize(self) -> None:
        """Share the new width between the columns."""
        self.virtual_size = Size(self._width, len(self._items) + 1)
        self._lay_out()
        self._keep_in_view()

    def _lay_out(self) -> bool:
        """Widths for what is in view; columns only grow, so that nothing jumps. True if a width changed."""
        natural = natural_widths(self._columns, [self._row_at(i) for i in self._in_view()])
        self._natural = [max(a, b) for a, b in zip(natural, self._natural or natural, strict=True)]
        widths = fit(self._columns, self._natural, max(1, self._width - MARK))
        changed, self._widths = widths != self._widths, widths
        return changed

    def _in_view(self) -> range:
        top = round(self.scroll_offset.y)
        return range(top, min(len(self._items), top + max(0, self._height - 1)))

    def _row_at(self, index: int) -> Row:
        row = self._made.get(index)
        if row is None:
            row = self._made[index] = self._row(self._items[index], self._now)
        return row

    def _content(self, y: int) -> _Painted:
        index = y - 1 + round(self.scroll_offset.y)
        if not 0 <= index < len(self._items):
            empty: Line = line("  ", (self._empty, "dim")) if not self._items and y == 2 else ()
            return _Painted(empty)
        row, is_cursor = self._row_at(index), index == self._cursor
        mark = ("▌ " if is_cursor else "  ", "key")
        return _Painted(
            (mark, *join(row.cells, self._columns, self._widths, gap_in(self._width - MARK))), row.tone, is_cursor
        )

    def _refresh_changed(self) -> None:
        for y in range(1, self._height):
            old, new = self._painted.get(y), self._content(y)
            if old is None or (old.tone, old.is_cursor) != (new.tone, new.is_cursor):
                self.refresh(Region(0, y, self._width, 1))
            elif old != new:
                for x, cells in changed_runs(old.spans, new.spans, self._width):
                    self.refresh(Region(x, y, cells, 1))

    def render_line(self, y: int) -> Strip:
        """The titles, a row, or in an empty table what to do."""
        palette, width = palette_of(self.app.theme), self._width
        if len(self._widths) != len(self._columns):
            self._lay_out()
        if y == 0:
            return strip_of(
                ((" " * MARK, ""), *header(self._columns, self._widths, gap_in(width - MARK))),
                width,
                palette,
                stale=self._stale,
            )
        shown = self._painted[y] = self._content(y)
        return strip_of(shown.spans, width, palette, tone=shown.tone, stale=self._stale, cursor=shown.is_cursor)
