"""HAProxy's log, one line a request, into the same counters that a worker of our own fills.

It comes through a pipe. A Unix datagram socket holds `net.unix.max_dgram_qlen` datagrams (10), and HAProxy drops what
does not fit: a worker late by a few milliseconds lost counts. A pipe holds thousands of lines, and keeps those of a
HAProxy that has ended.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Callable
from contextlib import suppress

from engine.gateway.counts import Counts, Result, RowKey
from engine.gateway.passing import outcome_of
from engine.gateway.table import RoutingTable
from state.words import BadClass, Track

PIPE_BYTES = 1 << 20
"""What an ordinary user may ask for (`fs.pipe-max-size`): about 15,000 lines."""
READ_BYTES = 64 << 10
NO_SERVER = "<NOSRV>"


def outcome_from(status: int, ended: str, server: str) -> BadClass:
    """The class of a request by HAProxy's status and termination state (its manual, section 8.5)."""
    cause, phase = ended[:1], ended[1:2]
    if cause in ("C", "c"):
        return BadClass.CLIENT_CANCEL
    if server == NO_SERVER and status == 503:
        return BadClass.SHED
    if cause == "s":
        return BadClass.STREAM_BROKEN if phase == "D" else BadClass.DEADLINE
    if cause == "S":
        return BadClass.STREAM_BROKEN if phase == "D" else BadClass.SERVER_ERROR
    return outcome_of(status)


class LogCounter:
    """Counts each line under the table served when it comes: HAProxy does not know of revisions."""

    def __init__(self, counts: Counts, table: Callable[[], RoutingTable | None]) -> None:
        self.unread = 0
        """Lines that could not be understood."""
        self._counts = counts
        self._table = table

    def count(self, line: bytes) -> None:
        """One line: status, active ms, ms to the answer's head, termination state, backend, server."""
        try:
            status, active, head, ended, backend, server = line.decode().split()
            key, slow_ms = self._whose(backend, server)
            outcome = outcome_from(int(status), ended, server)
            ttft_s = int(head) / 1000 if outcome is BadClass.OK and int(head) >= 0 else None
            self._counts.record(key, Result(outcome, max(0, int(active)) / 1000, ttft_s, 0, 0), slow_ms)
        except (ValueError, LookupError):
            if b" public " not in line and b" nowhere " not in line:  # refused before it was routed: nobody's request
                self.unread += 1

    def _whose(self, backend: str, server: str) -> tuple[RowKey, float]:
        table = self._table()
        env, _, service = backend.partition(".")
        route = table.route(service, env) if table is not None else None
        if table is None or route is None:
            raise LookupError(backend)
        if server == NO_SERVER:
            stable = next(b for b in route.backends if b.track == Track.STABLE)
            return RowKey.of(table, route, stable), route.slow_ms
        track, _, release_id = server.split(":", 2)
        row = RowKey(service, env, route.target, track, release_id, route.rollout_id, table.revision)
        return row, route.slow_ms


class LogPipe:
    """The pipe that every HAProxy of a worker writes to; `count` gets each line. A line is written whole (PIPE_BUF)."""

    def __init__(self, count: Callable[[bytes], None]) -> None:
        self._count = count
        self._rest = b""
        self._reader, self.writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        with suppress(OSError):  # the user has too many pipes: the size that the system gives will do
            fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def open(self) -> None:
        """Count what comes, from now on."""
        asyncio.get_running_loop().add_reader(self._reader, self.read)

    def read(self) -> None:
        """Count every line that is there now."""
        with suppress(BlockingIOError):
            while data := os.read(self._reader, READ_BYTES):
                *lines, self._rest = (self._rest + data).split(b"\n")
                for line in lines:
                    self._count(line)

    def close(self) -> None:
        """Count what was left, and close both ends."""
        self.read()
        asyncio.get_running_loop().remove_reader(self._reader)
        os.close(self._reader)
        os.close(self.writer)
