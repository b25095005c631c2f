"""What a table is made of, as values: columns, rows, and how columns share a width. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from console.tui.text import Line, line_width, pad, plain, width_of

ROOMY = 100
"""From this many cells on, columns stand two cells apart, below it one."""


def gap_in(available: int) -> int:
    """Cells between columns."""
    return 2 if available >= ROOMY else 1


@dataclass(frozen=True, slots=True)
class Column:
    """A column: at least `width` cells; `most` bounds its growth; the highest `keep` is dropped first, 0 never.

    A `flex` column takes what the others leave.
    """

    title: str
    width: int
    align: str = "<"
    keep: int = 0
    most: int = 40
    flex: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A row: the key of its object and a line for each column. `tone` colours what has no tone of its own."""

    key: str
    cells: tuple[Line, ...]
    tone: str = ""

    @property
    def text(self) -> str:
        """All its cells, for filters."""
        return " ".join(plain(cell) for cell in self.cells)


def natural_widths(columns: Sequence[Column], rows: Sequence[Row]) -> list[int]:
    """Cells that each column would like to have for `rows`."""
    widths = [max(column.width, width_of(column.title)) for column in columns]
    for row in rows:
        for index, cell in enumerate(row.cells):
            wanted = min(columns[index].most, line_width(cell))
            widths[index] = max(widths[index], wanted)
    return widths


def fit(columns: Sequence[Column], wanted: Sequence[int], available: int) -> list[int]:
    """The width of each column within `available` cells; 0 for a column that is left out."""
    widths = list(wanted)
    for index, column in enumerate(columns):
        if column.flex:
            widths[index] = max(column.width, width_of(column.title))

    gap = gap_in(available)

    def taken() -> int:
        shown = [w for w in widths if w > 0]
        return sum(shown) + gap * max(0, len(shown) - 1)

    for index in sorted(range(len(columns)), key=lambda i: -columns[i].keep):
        if taken() <= available or columns[index].keep == 0:
            break
        widths[index] = 0
    for index in sorted(range(len(columns)), key=lambda i: -widths[i]):
        over = taken() - available
        if over <= 0:
            break
        floor = max(columns[index].width, width_of(columns[index].title)) if widths[index] else 0
        widths[index] -= min(over, widths[index] - floor)
    flexing = [i for i, column in enumerate(columns) if column.flex and widths[i]]
    if flexing and available > taken():
        widths[flexing[0]] += available - taken()
    return widths


def header(columns: Sequence[Column], widths: Sequence[int], gap: int) -> Line:
    """The line of titles."""
    return join([((column.title, "head"),) for column in columns], columns, widths, gap)


def join(cells: Sequence[Line], columns: Sequence[Column], widths: Sequence[int], gap: int) -> Line:
    """A row's cells as one line."""
    spans: list[tuple[str, str]] = []
    for cell, column, width in zip(cells, columns, widths, strict=True):
        if width <= 0:
            continue
        if spans:
            spans.append((" " * gap, ""))
        spans.extend(pad(cell, width, column.align))
    return tuple(spans)


def table_lines(columns: Sequence[Column], rows: Sequence[Row], width: int) -> list[Line]:
    """A whole small table, titles first, for a page."""
    widths = fit(columns, natural_widths(columns, rows), width)
    gap = gap_in(width)
    return [header(columns, widths, gap), *(join(row.cells, columns, widths, gap) for row in rows)]
