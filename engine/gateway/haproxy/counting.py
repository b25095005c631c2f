"""HAProxy's log, one datagram a request, into the same counters that a worker of our own fills."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from engine.gateway.counts import Counts, Result, RowKey
from engine.gateway.passing import outcome_of
from engine.gateway.table import RoutingTable
from state.words import BadClass, Track

RECEIVE_BYTES = 4 << 20
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


class LogCounter(asyncio.DatagramProtocol):
    """Counts each line under the table served when it comes: HAProxy does not know of revisions."""

    def __init__(self, counts: Counts, table: Callable[[], RoutingTable | None]) -> None:
        self.unread = 0
        """Lines that could not be understood."""
        self._counts = counts
        self._table = table

    def datagram_received(self, data: bytes, addr: object) -> None:
        """One line: status, active ms, ms to the answer's head, termination state, backend, server."""
        try:
            status, active, head, ended, backend, server = data.decode().split()
            key, slow_ms = self._whose(backend, server)
            outcome = outcome_from(int(status), ended, server)
            ttft_s = int(head) / 1000 if outcome is BadClass.OK and int(head) >= 0 else None
            self._counts.record(key, Result(outcome, max(0, int(active)) / 1000, ttft_s, 0, 0), slow_ms)
        except (ValueError, LookupError):
            if b" public " not in data and b" nowhere " not in data:  # refused before it was routed: nobody's request
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


async def listen(path: Path, counter: LogCounter) -> asyncio.DatagramTransport:
    """Receive HAProxy's log on a Unix socket at `path`."""
    with suppress(FileNotFoundError):
        path.unlink()
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
    receiver.bind(str(path))
    path.chmod(0o600)
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: counter, sock=receiver)
    return transport
