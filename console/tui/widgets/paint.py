"""From lines to strips: the one place where tones become styles and text meets the terminal."""

from __future__ import annotations

import re

from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from console.tui.text import Line
from console.tui.theme import Palette

_BLOCKS = re.compile("█+|[^█]+")


def _filled(text: str, style: Style, shown: Style) -> list[Segment]:
    """Text in the style `shown`; full blocks in `style` become reversed spaces: solid in every font and line height."""
    if "█" not in text:
        return [Segment(text, shown)]
    solid = style + Style(reverse=not style.reverse)
    return [
        Segment(" " * len(part), solid) if part[0] == "█" else Segment(part, shown) for part in _BLOCKS.findall(text)
    ]


def strip_of(
    spans: Line,
    width: int,
    palette: Palette,
    *,
    tone: str = "",
    stale: bool = False,
    cursor: bool = False,
    shift: int = 0,
) -> Strip:
    """A line exactly `width` cells wide from cell `shift` on; `tone` is that of spans without one."""
    over = palette.cursor if cursor else None
    segments = []
    for text, own in spans:
        style = palette.style(own or tone, stale=stale)
        if over is not None and over.reverse:
            style = over
            segments += _filled(text, style, style)
        else:
            segments += _filled(text, style, style + over if over is not None else style)
    blank = palette.base + over if over else palette.base
    strip = Strip(segments)
    if shift:
        strip = strip.crop(shift)
    return strip.adjust_cell_length(width, blank)
