"""What stands in the terminal, cell by cell, so that an update sends the cells that differ and nothing else.

textual repaints regions: a widget that is refreshed is sent whole, whether or not its text changed, each span with its whole
style. Over SSH that is ten times what a person sees change. Between textual and the terminal stands this: it keeps the
characters and styles that were sent, compares, and writes the runs that are others, with the least change of style.
"""

from __future__ import annotations

from collections.abc import Iterator

from rich.color import ColorSystem
from rich.console import COLOR_SYSTEMS, Console
from rich.style import Style
from textual._compositor import ChopsUpdate, CompositorUpdate, LayoutUpdate
from textual.geometry import Size
from textual.strip import Strip

from console.tui.text import cells_of

Piece = tuple[int, int, Strip]
"""A strip and the cell it begins at: x, y."""

BRIDGE_BYTES = 4
"""What stands between two runs is written again rather than jumped over if it is no longer: a jump takes as many bytes."""
_NONE = Style.null()
_OFF = {"1": "22", "2": "22", "3": "23", "4": "24", "5": "25", "7": "27", "9": "29"}
_NARROW = "▁▂▃▄▅▆▇█░▏▎▍▌▋▊▉·–●○◑◔◕▲✓✗‖─│╭╮╰╯…→"
"""Signs of ours besides ASCII that every terminal moves one cell for, so that a relative move after them lands where it should."""


class Ready(CompositorUpdate):
    """An update that is text already."""

    def __init__(self, text: str) -> None:
        self.text = text

    def render_segments(self, console: Console) -> str:
        """The text."""
        return self.text


class Shown:
    """The terminal's cells as they were written last; unknown at first, and whenever something else may have written."""

    def __init__(self) -> None:
        self._size = Size(0, 0)
        self._chars: list[list[str | None]] = []
        self._styles: list[list[Style]] = []
        self._pens: dict[tuple[Style, ColorSystem], _Pen] = {}

    def forget(self) -> None:
        """Nothing is known of the terminal: what comes next is sent whole."""
        self._size = Size(0, 0)

    def difference(self, update: CompositorUpdate, size: Size, console: Console) -> str | None:
        """What to write for `update` on a terminal of `size`, "" for nothing; None for an update of another kind."""
        pieces = pieces_of(update)
        if pieces is None:
            return None
        if size != self._size:
            self._size = size
            self._chars = [[None] * size.width for _ in range(size.height)]
            self._styles = [[_NONE] * size.width for _ in range(size.height)]
        writer = _Writer(self._pens, COLOR_SYSTEMS.get(console.color_system or "", ColorSystem.TRUECOLOR))
        for x, y, strip in pieces:
            if 0 <= y < size.height:
                self._put(writer, x, y, strip)
        return writer.text()

    def _put(self, writer: _Writer, x: int, y: int, strip: Strip) -> None:
        chars: list[str | None] = []
        styles: list[Style] = []
        for text, style, control in strip:
            if control:
                continue
            cells = cells_of(text)
            chars += cells
            styles += [style or _NONE] * len(cells)
        room = self._size.width - x
        if room <= 0:
            return
        chars, styles = chars[:room], styles[:room]
        end = x + len(chars)
        row_chars, row_styles = self._chars[y], self._styles[y]
        if row_chars[x:end] == chars and row_styles[x:end] == styles:
            return
        runs = list(_runs(row_chars[x:end], chars, row_styles[x:end], styles))
        row_chars[x:end], row_styles[x:end] = chars, styles
        for first, last in runs:
            writer.write(x + first, y, row_chars, row_styles, x + last)


def pieces_of(update: CompositorUpdate) -> Iterator[Piece] | None:
    """The strips of an update, each with its place; None for a kind that has none."""
    if isinstance(update, LayoutUpdate):
        return _of_layout(update)
    return _of_chops(update) if isinstance(update, ChopsUpdate) else None


def _of_layout(update: LayoutUpdate) -> Iterator[Piece]:
    for y, strips in enumerate(update.strips, update.region.y):
        x = update.region.x
        for strip in strips:
            yield x, y, strip
            x += strip.cell_length


def _of_chops(update: ChopsUpdate) -> Iterator[Piece]:
    for y, x1, x2 in update.spans:
        for end, (x, strip) in zip(update.chop_ends[y], update.chops[y].items(), strict=False):
            if strip is None or x >= x2 or end <= x1:
                continue
            left = max(x, x1)
            yield left, y, strip.crop(left - x, min(end, x2) - x)


def _runs(
    old: list[str | None], new: list[str | None], old_styles: list[Style], new_styles: list[Style]
) -> Iterator[tuple[int, int]]:
    """Where two rows of cells differ, as (first, behind last); a character two cells wide is never torn."""
    start = -1
    for i, char in enumerate(new):
        if char != old[i] or new_styles[i] != old_styles[i]:
            if start < 0:
                start = i
                while start > 0 and new[start] == "":
                    start -= 1
        elif start >= 0 and char != "":
            yield start, i
            start = -1
    if start >= 0:
        yield start, len(new)


class _Pen:
    """A style as the terminal's codes, by what they set."""

    __slots__ = ("attributes", "back", "fore", "link")

    def __init__(self, style: Style, colors: ColorSystem) -> None:
        codes = Strip.render_style(style, "x", colors) if not style.link else ""
        self.link = style.link or ""
        self.attributes: tuple[str, ...] = ()
        self.fore = self.back = ""
        tokens = codes[2 : codes.index("m")].split(";") if codes.startswith("\x1b[") else []
        while tokens:
            count = {"5": 3, "2": 5}[tokens[1]] if tokens[0] in ("38", "48") else 1
            taken, tokens = tokens[:count], tokens[count:]
            code = int(taken[0])
            if 30 <= code <= 39 or 90 <= code <= 97:
                self.fore = "" if code == 39 else ";".join(taken)
            elif 40 <= code <= 49 or 100 <= code <= 107:
                self.back = "" if code == 49 else ";".join(taken)
            else:
                self.attributes += (taken[0],)

    def after(self, before: _Pen) -> str:
        """The shortest way from the style `before` to this one."""
        if (self.attributes, self.fore, self.back) == (before.attributes, before.fore, before.back):
            return ""
        gone = [a for a in before.attributes if a not in self.attributes]
        off = dict.fromkeys(_OFF.get(a, "0") for a in gone)
        if "0" in off or not (self.attributes or self.fore or self.back):
            return f"\x1b[{';'.join(('0', *self.attributes, *filter(None, (self.fore, self.back))))}m"
        # 22 ends bold and dim alike.
        kept = [a for a in before.attributes if a in self.attributes and _OFF.get(a) not in off]
        codes = [*off, *(a for a in self.attributes if a not in kept)]
        if self.fore != before.fore:
            codes.append(self.fore or "39")
        if self.back != before.back:
            codes.append(self.back or "49")
        return f"\x1b[{';'.join(codes)}m"


class _Writer:
    """Collects what to send, knowing where the cursor stands and in which style it writes."""

    def __init__(self, pens: dict[tuple[Style, ColorSystem], _Pen], colors: ColorSystem) -> None:
        self._pens, self._colors = pens, colors
        self._parts: list[str] = []
        self._plain = self._pen = self._pen_of(_NONE)
        self._style: Style = _NONE
        self._at: tuple[int, int] | None = None

    def _pen_of(self, style: Style) -> _Pen:
        key = (style, self._colors)
        found = self._pens.get(key)
        if found is None:
            found = self._pens[key] = _Pen(style, self._colors)
        return found

    def write(self, x: int, y: int, chars: list[str | None], styles: list[Style], end: int) -> None:
        """Write the cells from `x` to before `end` of line `y`."""
        x = self._go(x, y, chars, styles)
        start = x
        for i in range(x, end + 1):
            if i == end or styles[i] != styles[start]:
                self._say("".join(char or "" for char in chars[start:i]), styles[start])
                start = i
        # Behind the last cell of a line terminals do not agree where the cursor is.
        known = end < len(chars) and all(
            (c != "" and (c or "").isascii()) or c in _NARROW for c in chars[x:end] if c is not None
        )
        self._at = (end, y) if known else None

    def _go(self, x: int, y: int, chars: list[str | None], styles: list[Style]) -> int:
        """Move to a cell, or write again the few before it; where writing begins."""
        if self._at is None or self._at[1] != y or x < self._at[0]:
            self._parts.append(f"\x1b[{y + 1};{x + 1}H")
            return x
        gap = x - self._at[0]
        if gap <= BRIDGE_BYTES:
            between = [chars[i] or "" for i in range(self._at[0], x)]
            same = all(styles[i] == self._style for i in range(self._at[0], x))
            if same and all(between) and len("".join(between).encode()) <= BRIDGE_BYTES:
                return self._at[0]
        if gap:
            self._parts.append(f"\x1b[{gap}C")
        return x

    def _say(self, text: str, style: Style) -> None:
        pen = self._pen_of(style)
        if style.link:
            # A link is rare and wraps its own text.
            self._parts.append(self._plain.after(self._pen))
            self._parts.append(Strip.render_style(style, text, self._colors))
            self._pen, self._style = self._plain, _NONE
            return
        self._parts.append(pen.after(self._pen))
        self._parts.append(text)
        self._pen, self._style = pen, style

    def text(self) -> str:
        """All of it, the style put back; "" if there is nothing to send."""
        if self._parts:
            self._parts.append(self._plain.after(self._pen))
            self._pen, self._style = self._plain, _NONE
        return "".join(self._parts)
