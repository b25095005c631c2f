"""HTTP/1.1 to one replica: a pool of keep-alive connections, one request at a time on each.

The way upstream is the dearest part of a proxied request, so this does no more than a proxy needs: a request is bytes
that are ready to be sent, an answer is a status, the header lines as they came and a body that is whole or comes piece
by piece. Redirects, cookies and decompression are the client's affair.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import socket
import ssl
import time
from urllib.parse import urlsplit

from engine.gateway.wire.answer import Answer
from engine.gateway.wire.connection import Connection
from engine.gateway.wire.errors import ConnectFailed, NoRoom

CONNECT_TIMEOUT_S = 1.0
QUEUE_FULL_S = 0.01
"""How long to wait before the queue of a Unix socket, which refuses when it is full, is tried again."""
IDLE_CONNECTION_S = 4.0
"""Below the 5 s after which common servers close an idle connection, so that we are the one who closes it."""

_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})


class Wire:
    """Connections to the replica at `address`: `unix:/path`, `http://host:port` or `https://…`. None is opened yet."""

    def __init__(self, address: str) -> None:
        self._unix = address.removeprefix("unix:") if address.startswith("unix:") else ""
        url = urlsplit(address)
        self._host = url.hostname or ""
        self._is_tls = url.scheme == "https"
        self._port = url.port or (443 if self._is_tls else 80)
        self.authority = (url.netloc if not self._unix else "replica").encode()
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()
        self._sweeping: asyncio.TimerHandle | None = None
        self._is_closed = False

    async def post(self, path: str, lines: bytes, body: bytes) -> Answer:
        """POST `body`; `lines` are header lines, each with its end. Raises ConnectFailed, BrokeOff, NotHttp."""
        head = b"POST %s HTTP/1.1\r\nHost: %s\r\n%sContent-Length: %d\r\n\r\n"
        return await self._ask(head % (path.encode(errors="surrogateescape"), self.authority, lines, len(body)) + body)

    async def get(self, path: str) -> Answer:
        """GET `path`. Raises as `post` does."""
        return await self._ask(b"GET %s HTTP/1.1\r\nHost: %s\r\nAccept: */*\r\n\r\n" % (path.encode(), self.authority))

    async def ask(self, method: str, path: str, lines: bytes) -> Answer:
        """A request without a body; `lines` are header lines, each with its end. Raises as `post` does."""
        head = b"%s %s HTTP/1.1\r\nHost: %s\r\n%s\r\n"
        where = path.encode(errors="surrogateescape")
        return await self._ask(head % (method.encode(), where, self.authority, lines))

    def give_back(self, connection: Connection) -> None:
        """The connection is idle now."""
        if self._is_closed:
            connection.transport.close()
            return
        connection.idle_since = time.monotonic()
        self._idle.append(connection)
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().call_later(IDLE_CONNECTION_S, self._sweep)

    def forget(self, connection: Connection) -> None:
        """The connection is gone."""
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def close(self) -> None:
        """Close what is idle now and the rest as it becomes so."""
        self._is_closed = True
        if self._sweeping is not None:
            self._sweeping.cancel()
        for connection in self._idle:
            connection.transport.close()
        self._idle.clear()

    def abort(self) -> None:
        """Cut every connection."""
        self.close()
        for connection in list(self._all):
            connection.transport.abort()

    async def _ask(self, request: bytes) -> Answer:
        while self._idle:
            connection = self._idle.pop()
            if not connection.transport.is_closing():
                return await connection.ask(request)
        return await (await self._connect()).ask(request)

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                if self._unix:
                    connection = await self._connect_unix(loop)
                else:
                    tls = _tls_context() if self._is_tls else None
                    _, connection = await loop.create_connection(self._new, self._host, self._port, ssl=tls)
        except TimeoutError as error:
            raise ConnectFailed(f"no connection within {CONNECT_TIMEOUT_S:g} s") from error
        except OSError as error:
            kind = NoRoom if error.errno in _NO_ROOM else ConnectFailed
            raise kind(str(error) or type(error).__name__) from error
        self._all.add(connection)
        return connection

    def _new(self) -> Connection:
        return Connection(self.give_back, self.forget)

    async def _connect_unix(self, loop: asyncio.AbstractEventLoop) -> Connection:
        """Over TCP a full queue makes one wait; here it is an error at once, and says that the replica is busy."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            while not self._has_joined(sock):
                await asyncio.sleep(QUEUE_FULL_S)
        except BaseException:
            sock.close()
            raise
        return (await loop.create_unix_connection(self._new, sock=sock))[1]

    def _has_joined(self, sock: socket.socket) -> bool:
        """A Unix socket connects at once, or not at all; asyncio's own loop takes a refusal for a beginning."""
        try:
            sock.connect(self._unix)
        except BlockingIOError:
            return False
        return True

    def _sweep(self) -> None:
        """Close what was idle for long, and look again while there is something to look at."""
        self._sweeping = None
        before = time.monotonic() - IDLE_CONNECTION_S
        for connection in [c for c in self._idle if c.idle_since <= before]:
            self._idle.remove(connection)
            connection.transport.close()
        if self._idle:
            due = self._idle[0].idle_since - before  # the oldest stands first: what is used is taken from the end
            self._sweeping = asyncio.get_running_loop().call_later(max(due, 0.05), self._sweep)


@functools.cache
def _tls_context() -> ssl.SSLContext:
    """Of all replicas: reading the system's certificates takes long enough to be felt by every other request."""
    return ssl.create_default_context()
