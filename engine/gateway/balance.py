"""How many connections each worker has open, for all of them to see, so that none takes every client for itself.

Workers share one listening socket, and whoever wakes first accepts: on a quiet machine that is always the same one, and
keep-alive clients stay where they are. A page of memory, a file in the gateway's directory, has a slot a worker; a worker that
has more than the least of the others lets a connection wait a moment for them, and takes it if none does. A socket a worker
(SO_REUSEPORT) would balance too, but what is queued on the socket of a worker that died waits for its successor, while here
the others serve it.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

from engine.gateway.logs import log

FILE = "connections"
SLOTS = 64
_SLOT = struct.Struct("<Qd")
_BYTES = SLOTS * _SLOT.size
FRESH_S = 3.0
"""A slot not written for so long is of a worker that is gone, or that hangs."""
SLACK = 1
"""Connections one may have more than another without waiting for it."""
YIELD_S = 0.002
"""How long a connection waits for a worker that has fewer."""


class Balance:
    """One worker's view of the page. `clock` is the host's monotonic one."""

    def __init__(self, directory: Path, worker: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Where the file cannot be had (a full disk), a page of its own: this worker then waits for nobody."""
        self._own = worker % SLOTS
        self._clock = clock
        self._is_here = True
        try:
            self._page = _shared(directory / FILE)
        except OSError as error:
            log("connections_not_balanced", error=str(error))
            self._page = mmap.mmap(-1, _BYTES)

    def note(self, connections: int) -> None:
        """So many are open here now."""
        if self._is_here:
            _SLOT.pack_into(self._page, self._own * _SLOT.size, connections, self._clock())

    def should_yield(self, connections: int) -> bool:
        """Another worker that is well has fewer than our `connections`, by more than the slack."""
        now = self._clock()
        # A time to come is from before the host was started again.
        others = (
            count
            for slot, (count, at) in enumerate(_SLOT.iter_unpack(self._page))
            if slot != self._own and abs(now - at) < FRESH_S
        )
        return connections > min(others, default=connections) + SLACK

    def leave(self) -> None:
        """This worker accepts no more; its slot is its successor's."""
        if self._is_here:
            _SLOT.pack_into(self._page, self._own * _SLOT.size, 0, 0.0)
            self._is_here = False


def _shared(path: Path) -> mmap.mmap:
    """Raises OSError."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        # Not ftruncate, which takes no room yet: on a full disk the first write to the page would end the process (SIGBUS).
        os.posix_fallocate(file, 0, _BYTES)
        return mmap.mmap(file, _BYTES)
    finally:
        os.close(file)
