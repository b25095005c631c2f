"""Who holds a lock on a SQLite file, as the kernel says it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_WRITE_BYTE = 120
"""Of the shared-memory file beside a WAL store: who holds it writes (SQLite's WAL_WRITE_LOCK)."""


def writer_of(store: Path) -> str:
    """`process 4242 (sqlite3)`: another process that holds the store's write lock; "" when none does, or nobody can say."""
    try:
        file = os.stat(f"{store}-shm")
        locks = Path("/proc/locks").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return ""
    for line in locks:
        # `1: POSIX  ADVISORY  WRITE 4242 fe:00:2211978 120 120`
        fields = line.split()
        if len(fields) != 8 or fields[3] != "WRITE" or fields[5].rpartition(":")[2] != str(file.st_ino):
            continue
        pid, first, last = int(fields[4]), int(fields[6]), fields[7]
        covers = first <= _WRITE_BYTE and (last == "EOF" or int(last) >= _WRITE_BYTE)
        if covers and pid not in (os.getpid(), -1):
            return f"process {pid}{_name(pid)}"
    return ""


def _name(pid: int) -> str:
    with suppress(OSError):
        return f" ({Path(f'/proc/{pid}/comm').read_text(errors='replace').strip()})"
    return ""
