"""Pages made of lines: framed panels, side by side or below each other. Pure.

A detail screen is one function of a view and a width that returns lines; one widget shows them and repaints the lines
that changed.
"""

from __future__ import annotations

from collections.abc import Sequence

from console.tui.text import Line, line, line_width, pad, safe, width_of, wrap

FRAME = "frame"


def panel(title: str | Line, body: Sequence[Line], width: int, height: int = 0) -> list[Line]:
    """`body` in a frame of `width` cells with `title` in its top edge; at least `height` lines, frame included."""
    inner = max(0, width - 4)
    head = line((title, "title")) if isinstance(title, str) else title
    head = pad(head, min(line_width(head), max(0, width - 6)))
    rule = "─" * max(0, width - 5 - line_width(head))
    lines: list[Line] = [(("╭─ ", FRAME), *head, (f" {rule}╮", FRAME))]
    rows = list(body) + [()] * max(0, height - 2 - len(body))
    lines.extend((("│ ", FRAME), *pad(row, inner), (" │", FRAME)) for row in rows)
    lines.append(((f"╰{'─' * max(0, width - 2)}╯", FRAME),))
    return lines


def beside(left: Sequence[Line], right: Sequence[Line], left_width: int, gap: int = 1) -> list[Line]:
    """Two blocks next to each other, the shorter padded with empty lines."""
    count = max(len(left), len(right))
    lines = []
    for index in range(count):
        a = left[index] if index < len(left) else ()
        b = right[index] if index < len(right) else ()
        lines.append((*pad(a, left_width), (" " * gap, ""), *b))
    return lines


def split(width: int, share: float = 0.5, gap: int = 1) -> tuple[int, int]:
    """Widths of two blocks beside each other."""
    left = int((width - gap) * share)
    return left, width - gap - left


def facts(pairs: Sequence[tuple[str, str | Line]], width: int, label_width: int = 0) -> list[Line]:
    """Label and value lines, values aligned and wrapped."""
    label_width = label_width or min(width // 2, max((width_of(safe(label)) for label, _ in pairs), default=0))
    room = max(8, width - label_width - 2)
    lines: list[Line] = []
    for label, value in pairs:
        rows = wrap(value, room) if isinstance(value, str) else [value]
        for index, row in enumerate(rows):
            lines.append((*pad(line((label if index == 0 else "", "dim")), label_width), ("  ", ""), *row))
    return lines


def between(left: Line, right: Line, width: int, tone: str = "") -> Line:
    """`left` and `right` at the ends of a line; the left one is cut if they do not both fit."""
    room = max(0, width - line_width(right) - 1)
    return pad((*pad(left, room, tone=tone), (" ", tone), *right), width, tone=tone)
