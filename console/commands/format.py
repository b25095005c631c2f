"""Numbers as people read them. A missing value is `-`: unknown is never shown as zero."""

from __future__ import annotations

import time
from typing import Any

NONE = "-"


def span(seconds: float | None) -> str:
    """`42s`, `3m12s`, `2h05m`, `9d04h`."""
    if seconds is None:
        return NONE
    s = max(0, round(seconds))
    if s < 60:
        return f"{s}s"
    if s < 3600:
        return f"{s // 60}m{s % 60:02d}s"
    if s < 86400:
        return f"{s // 3600}h{s % 3600 // 60:02d}m"
    return f"{s // 86400}d{s % 86400 // 3600:02d}h"


def ago(at: float | None, now: float) -> str:
    """How long ago `at` (Unix seconds) was."""
    return NONE if at is None else span(now - at)


def clock(at: float | None) -> str:
    """`2026-11-21T18:00:00Z`."""
    return NONE if at is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


def milliseconds(value: float | None) -> str:
    """`85 ms`, `1.20 s`."""
    if value is None:
        return NONE
    return f"{value:.0f} ms" if value < 1000 else f"{value / 1000:.2f} s"


def percent(ratio: float | None, digits: int = 2) -> str:
    """0.0123 → `1.23 %`."""
    return NONE if ratio is None else f"{ratio * 100:.{digits}f} %"


def number(value: Any) -> str:
    """Up to four significant digits, and no more."""
    if value is None:
        return NONE
    if isinstance(value, bool) or not isinstance(value, float):
        return str(value)
    return f"{value:.4g}"


def words(state: str | None) -> str:
    """`step_baking` stays as it is: it is the word that scripts match. Empty is `-`."""
    return state or NONE


def short(digest: str | None) -> str:
    """The first 12 digits of a digest."""
    return digest[:12] if digest else NONE


def yes(flag: bool) -> str:
    """`yes` or `no`."""
    return "yes" if flag else "no"
