"""Locks that die with their holder (flock(2)): taking one, and asking whether somebody has it."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

PATIENCE_S = 2.0
"""How long one tries for a lock: whoever asks whether it is held takes it for an instant to find out."""


def take(fd: int, patience_s: float = PATIENCE_S) -> bool:
    """Take the lock of the open file `fd` for as long as it stays open; False when another has it and keeps it."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)


def is_locked(path: Path) -> bool:
    """Somebody alive has the lock at `path`. Asks with a shared lock, so that two who ask do not see each other.

    A file that is not there, or not ours to open, is locked by nobody we know of. Raises OSError when the system cannot
    say: out of descriptors, the dead must not be taken for the living, nor the living for the dead.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
