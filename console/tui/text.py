"""Words and numbers as they stand on screen: harmless, short, the same everywhere. Pure.

A `Line` is a tuple of spans, a span is (text, tone); a tone is a name that a palette turns into a style. Text from
outside (names, logs, alert texts, errors) becomes a span only through `safe`, and is never parsed as markup.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from unicodedata import category

from rich.cells import cell_len, get_character_cell_size

Span = tuple[str, str]
Line = tuple[Span, ...]

LONGEST = 4000
"""Characters of one text that are shown; a line of megabytes is cut here, and says so."""

_SPARKS = " ▁▂▃▄▅▆▇█"
_EIGHTHS = " ▏▎▍▌▋▊▉█"
NOTHING = "–"
"""Stands where a value is unknown."""


def safe(text: str, limit: int = LONGEST) -> str:
    """`text` on one line, with control, format and unassigned characters shown as harmless signs."""
    if len(text) > limit:
        text = f"{text[:limit]}… ({len(text) - limit:,} more characters)"
    return text if text.isprintable() else "".join(_harmless(char) for char in text)


def _harmless(char: str) -> str:
    if char.isprintable():
        return char
    code = ord(char)
    if char == "\t":
        return " "
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "␡"
    return " " if category(char) == "Zs" else "\N{REPLACEMENT CHARACTER}"


def line(*parts: str | Span) -> Line:
    """A Line of plain texts and (text, tone) spans, each made safe."""
    return tuple((safe(p), "") if isinstance(p, str) else (safe(p[0]), p[1]) for p in parts)


def plain(spans: Line) -> str:
    """The text of a line without its tones."""
    return "".join(text for text, _ in spans)


def width_of(text: str) -> int:
    """Terminal cells that `text` takes, as the renderer counts them."""
    return cell_len(text)


def line_width(spans: Line) -> int:
    """Terminal cells that a line takes."""
    return sum(width_of(text) for text, _ in spans)


def cut(spans: Line, width: int) -> Line:
    """The line at most `width` cells wide; an ellipsis stands where something was cut."""
    if line_width(spans) <= width:
        return spans
    if width <= 0:
        return ()
    kept: list[Span] = []
    room = width - 1
    for text, tone in spans:
        taken = ""
        for char in text:
            cells = get_character_cell_size(char)
            if cells > room:
                kept.append((taken + "…", tone))
                return tuple(kept)
            taken += char
            room -= cells
        kept.append((taken, tone))
    return tuple(kept)


def pad(spans: Line, width: int, align: str = "<", tone: str = "") -> Line:
    """The line exactly `width` cells wide, cut or padded on the side that `align` (`<` or `>`) leaves free."""
    spans = cut(spans, width)
    gap = width - line_width(spans)
    if gap <= 0:
        return spans
    return (*spans, (" " * gap, tone)) if align == "<" else ((" " * gap, tone), *spans)


def changed_runs(old: Line, new: Line, width: int, merge: int = 6) -> list[tuple[int, int]]:
    """Where two lines differ on screen, as (first cell, cells); runs closer than `merge` cells are one."""
    a, b = _cells_of(old, width), _cells_of(new, width)
    runs: list[tuple[int, int]] = []
    for x in range(width):
        if a[x] != b[x]:
            if runs and x - sum(runs[-1]) < merge:
                runs[-1] = (runs[-1][0], x + 1 - runs[-1][0])
            else:
                runs.append((x, 1))
    return runs


def _cells_of(spans: Line, width: int) -> list[Span]:
    cells: list[Span] = []
    for text, tone in spans:
        for char in text:
            size = get_character_cell_size(char)
            if size == 0 and cells:
                cells[-1] = (cells[-1][0] + char, tone)
            elif size:
                cells += [(char, tone)] * size
    return cells[:width] + [(" ", "")] * (width - len(cells))


def cells_of(text: str) -> list[str]:
    """The characters of `text` by terminal cell; "" in the second cell of a wide one, marks with the character they sit on."""
    if text.isascii():
        return list(text)
    cells: list[str] = []
    for char in text:
        size = get_character_cell_size(char)
        if size == 0 and cells:
            cells[-1 if cells[-1] else -2] += char
        elif size:
            cells += [char, *[""] * (size - 1)]
    return cells


def wrap(text: str, width: int, tone: str = "") -> list[Line]:
    """`text` broken at spaces into lines of at most `width` cells; a word that is too long is broken."""
    lines: list[Line] = []
    current = ""
    for word in safe(text).split(" "):
        while width_of(word) > width > 0:
            if current:
                lines.append(((current, tone),))
                current = ""
            piece = _fitting(word, width)
            lines.append(((piece, tone),))
            word = word[len(piece) :]
        joined = f"{current} {word}" if current else word
        if width_of(joined) > width and current:
            lines.append(((current, tone),))
            current = word
        else:
            current = joined
    if current or not lines:
        lines.append(((current, tone),))
    return lines


def _fitting(word: str, width: int) -> str:
    """As much of the start of `word` as fits, at least one character."""
    taken, room = "", width
    for char in word:
        room -= get_character_cell_size(char)
        if room < 0:
            break
        taken += char
    return taken or word[:1]


def duration(seconds: float | None) -> str:
    """`34 s`, `3 m 12 s`, `1 h 04 m`, `2 d 03 h`."""
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} m"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def clock(at: float | None) -> str:
    """The time of day in UTC, `14:03:22`."""
    return NOTHING if at is None else datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S")


def stamp(at: float | None) -> str:
    """Date and time in UTC, `2026-03-01 14:03:22`."""
    return NOTHING if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


def count(value: float | None) -> str:
    """`1,204`."""
    return NOTHING if value is None else f"{value:,.0f}"


def short_count(value: float | None) -> str:
    """`1204`, `12.3k`, `4.5M`: at most five cells."""
    if value is None or not math.isfinite(value):
        return NOTHING
    for limit, unit, suffix in ((1e4, 1.0, ""), (1e6, 1e3, "k"), (1e9, 1e6, "M")):
        if abs(value) < limit:
            return f"{value / unit:.0f}" if unit == 1.0 else f"{value / unit:.1f}{suffix}"
    return f"{value / 1e9:.1f}G"


def rate(value: float | None) -> str:
    """A rate per second: `0`, `0.4`, `12.5`, `240`."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return "0" if value == 0 else f"{value:.1f}" if value < 100 else short_count(value)


def percent(ratio: float | None, digits: int | None = None) -> str:
    """A share 0..1 as `0.25 %`; as many digits as it takes to tell small shares apart."""
    if ratio is None or not math.isfinite(ratio):
        return NOTHING
    value = ratio * 100
    if digits is None:
        digits = 0 if value == 0 or abs(value) >= 99.995 else 2 if abs(value) < 1 else 1 if abs(value) < 99 else 2
    return f"{value:.{digits}f} %"


def whole_percent(value: float | None) -> str:
    """A percentage 0..100 as `49.6 %` or `50 %`."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:.0f} %" if abs(value - round(value)) < 0.05 else f"{value:.1f} %"


def millis(value: float | None) -> str:
    """`8.4 ms`, `412 ms`, `1.24 s`."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:.1f} ms" if value < 10 else f"{value:.0f} ms" if value < 1000 else f"{value / 1000:.2f} s"


def number(value: object) -> str:
    """A metric or parameter of unknown type, short."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return safe(str(value), 400)
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if not math.isfinite(value):
        return str(value)
    return f"{value:.4g}" if abs(value) < 1000 or abs(value) >= 1e9 else f"{value:,.0f}"


def sparkline(series: Sequence[float], width: int, top: float | None = None) -> str:
    """The last `width` points as blocks, scaled to `top` or the highest; a zero is an empty line, a gap (NaN) a space."""
    points = list(series)[-width:]
    if top is None:
        top = max((p for p in points if math.isfinite(p)), default=0.0)
    if not points:
        return ""
    return "".join(
        " " if not math.isfinite(p) else "▁" if top <= 0 or p <= 0 else _SPARKS[min(8, max(1, round(p / top * 8)))]
        for p in points
    )


def chart(series: Sequence[float], width: int, height: int) -> list[str]:
    """The last `width` points as an area of `height` lines, top line first, scaled to the highest point."""
    points = [p if math.isfinite(p) else 0.0 for p in list(series)[-width:]]
    top = max(points, default=0.0)
    rows = []
    for level in range(height - 1, -1, -1):
        row = ""
        for point in points:
            filled = (point / top * height - level) if top > 0 else 0.0
            row += _SPARKS[round(min(1.0, max(0.0, filled)) * 8)]
        rows.append(row.rjust(width))
    return rows


def bar(fraction: float | None, width: int) -> str:
    """A bar of `width` cells, filled by eighths; empty where the value is unknown."""
    if fraction is None or not math.isfinite(fraction):
        return "·" * width
    eighths = round(min(1.0, max(0.0, fraction)) * width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_EIGHTHS[rest] if rest else "")).ljust(width, "░")
