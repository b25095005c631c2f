"""The end of a log file, however long it has grown. Standard library only."""

from __future__ import annotations

import os
from pathlib import Path

MOST_BYTES = 1 << 20
"""No more is read of one file: 100,000 lines of a hostile one may be anything."""


def tail(path: Path, lines: int) -> str:
    """The last `lines` lines of the file at `path`, of its last MiB; "" when it is not there."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - MOST_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    return "".join(text.splitlines(keepends=True)[-lines:])
