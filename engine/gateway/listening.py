"""Taking connections from the shared listening socket, and the event loop that serves them.

We accept by ourselves, as a loop's own server does not know that the socket is shared: uvloop would shrink the kernel's
queue to what it accepts at a time, and would take a whole burst of connections while the other workers sleep.
"""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import ssl
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from engine.gateway.balance import YIELD_S
from engine.gateway.logs import log

LISTEN_BACKLOG = 4096
ACCEPT_PAUSE_S = 0.2
"""How long a worker that has no descriptor left leaves new connections to the others."""

HANDSHAKE_TIMEOUT_S = 10.0
SPARE_DESCRIPTORS = 256
"""Kept from new connections for those to replicas and for files: clients that only hold connections open must not
cost those that ask. At most a quarter of what the process may have."""

T = TypeVar("T")


class Acceptor:
    """Accepts for one worker. `listener` is its own copy of the shared socket, and closed with the acceptor.

    `tls` says what a new connection is to be encrypted with; None is plain HTTP. `should_yield` says whether another
    worker should have the next connection; it then waits YIELD_S for one, and is taken here if none came.
    """

    def __init__(
        self,
        listener: socket.socket,
        factory: Callable[[], asyncio.Protocol],
        tls: Callable[[], ssl.SSLContext] | None = None,
        should_yield: Callable[[], bool] = lambda: False,
    ) -> None:
        self._tls = tls
        self._should_yield = should_yield
        self._has_yielded = False
        self._listener = listener
        self._factory = factory
        self._loop = asyncio.get_running_loop()
        self._beginning: set[asyncio.Task[Any]] = set()
        self._resting: asyncio.TimerHandle | None = None
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._enough = soft - min(SPARE_DESCRIPTORS, soft // 4) if soft != resource.RLIM_INFINITY else sys.maxsize

    def open(self) -> None:
        """Begin to accept. The queue is always as long as it can be: it is everybody's."""
        self._listener.setblocking(False)
        self._listener.listen(LISTEN_BACKLOG)
        self._loop.add_reader(self._listener, self._accept)

    def close(self) -> None:
        """Accept no more. Never `shutdown`: that would end it for every worker."""
        if self._resting is not None:
            self._resting.cancel()
        self._loop.remove_reader(self._listener)
        self._listener.close()

    def _accept(self) -> None:
        """Take one a wake, as nginx does: a burst then spreads over the workers instead of going to the first one awake."""
        if not self._has_yielded and self._should_yield():
            self._has_yielded = True
            self._look_away(YIELD_S)
            return
        self._has_yielded = False
        try:
            if self._has_few_left():
                self._rest("few descriptors are left; they are for connections to replicas")
                return
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another worker took it, or the client did not wait
        except OSError as error:  # no descriptor or no memory left: try again in a moment, serve until then
            self._rest(str(error))
            return
        connection.setblocking(False)
        task = self._loop.create_task(self._begin(connection))
        self._beginning.add(task)
        task.add_done_callback(self._beginning.discard)

    def _has_few_left(self) -> bool:
        """A new descriptor is the lowest free number, so its number says how many are taken. Raises OSError at none."""
        descriptor = os.dup(self._listener.fileno())
        os.close(descriptor)
        return descriptor >= self._enough

    def _rest(self, why: str) -> None:
        log("accept_paused", error=why)
        self._look_away(ACCEPT_PAUSE_S)

    def _look_away(self, seconds: float) -> None:
        """Leave new connections to the others for so long."""
        self._loop.remove_reader(self._listener)
        self._resting = self._loop.call_later(seconds, self.open)

    async def _begin(self, connection: socket.socket) -> None:
        try:
            if self._tls is None:
                await self._loop.connect_accepted_socket(self._factory, connection)
            else:
                await self._loop.connect_accepted_socket(
                    self._factory, connection, ssl=self._tls(), ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S
                )
        except OSError:  # reset between accept and now, or no handshake came of it; nobody is there to answer
            connection.close()


def raise_descriptor_limit() -> None:
    """Take as many descriptors as this process may have: an idle connection is one, and a proxied request is two."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # a hard limit above the kernel's own: what we have must do
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` on uvloop, or on asyncio's own loop where there is no uvloop for this Python."""
    try:
        from uvloop import new_event_loop
    except ImportError as error:
        log("no_uvloop", error=str(error), consequence="the gateway serves at about half its speed")
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main)
