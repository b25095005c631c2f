"""HTTP/1.1 to one replica: a pool of keep-alive connections, one request at a time on each.

The way upstream is the dearest part of a proxied request, so this does no more than a proxy needs: a request is bytes
that are ready to be sent, an answer is a status, the header lines as they came and a body that is whole or comes piece
by piece. httptools (the parser of node.js) reads it. Redirects, cookies and decompression are the client's affair.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import socket
import ssl
import time
from typing import cast
from urllib.parse import urlsplit

import httptools

CONNECT_TIMEOUT_S = 1.0
QUEUE_FULL_S = 0.01
"""How long to wait before the queue of a Unix socket, which refuses when it is full, is tried again."""
IDLE_CONNECTION_S = 4.0
"""Below the 5 s after which common servers close an idle connection, so that we are the one who closes it."""
MAX_HEAD_BYTES = 64 << 10
HIGH_WATER = 128 << 10
"""Bytes of an answer held before the replica is told to wait, where it is passed on piece by piece."""

_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})


class ConnectFailed(OSError):
    """No connection to the replica could be had: nothing was sent."""


class NoRoom(ConnectFailed):
    """This host has no descriptor, port or memory left for a connection: that says nothing of the replica."""


class BrokeOff(ConnectionError):
    """The replica closed or reset the connection before its answer was whole."""


class NotHttp(Exception):
    """What the replica answered is not HTTP/1.1."""


class TooLarge(Exception):
    """The answer is larger than whoever wants to have it whole can hold."""


class Answer:
    """A replica's answer: its head is here, its body may still be on the way. `close` when done, however it went."""

    __slots__ = (
        "_chunks",
        "_connection",
        "_error",
        "_held",
        "_is_over",
        "_waiter",
        "headers",
        "is_open_ended",
        "status",
    )

    def __init__(self, connection: Connection, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.status = status
        self.headers = headers
        """As they came, repeats included."""
        self.is_open_ended = False
        """It has neither a length nor chunks: the end of the connection is its end."""
        self._connection = connection
        self._chunks: list[bytes] = []
        self._held = 0
        self._is_over = False
        self._error: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None

    def header(self, name: bytes) -> bytes:
        """The first value of the header `name` (lower case), b"" if it has none."""
        return next((value for key, value in self.headers if key.lower() == name), b"")

    @property
    def has_no_body(self) -> bool:
        """Its status says that nothing follows the head (RFC 9110 §15.3.5, §15.4.5)."""
        return self.status in (204, 304)

    @property
    def content_length(self) -> int | None:
        """The body's length, where the head states it."""
        stated = self.header(b"content-length")
        return int(stated) if stated.isdigit() else None

    @property
    def content_type(self) -> str:
        """What the body is, lower case and without parameters; "" when the head does not say."""
        return self.header(b"content-type").partition(b";")[0].strip().lower().decode(errors="replace")

    async def read(self, limit: int) -> bytes:
        """The whole rest of the body. Raises TooLarge beyond `limit` bytes, BrokeOff, NotHttp."""
        while not self._is_over and self._held <= limit:
            self._connection.resume()
            await self._more()
        if self._held > limit:
            raise TooLarge(f"it is larger than {limit} bytes")
        if self._error is not None:
            raise self._error
        return self._take()

    async def readany(self) -> bytes:
        """The next piece of the body as soon as there is one; b"" is its end. Raises BrokeOff, NotHttp."""
        while not self._chunks and not self._is_over:
            await self._more()
        if self._chunks:
            return self._take()
        if self._error is not None:
            raise self._error
        return b""

    def close(self) -> None:
        """Be done with it. A connection whose answer was not whole cannot be used again."""
        if not self._is_over:
            self._connection.abort()

    def feed(self, data: bytes) -> None:
        """The connection's: a piece has come."""
        self._chunks.append(data)
        self._held += len(data)
        if self._held > HIGH_WATER:
            self._connection.pause()
        self._wake()

    def finish(self, error: BaseException | None = None) -> None:
        """The connection's: nothing more will come."""
        self._is_over, self._error = True, error
        self._wake()

    async def _more(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _take(self) -> bytes:
        chunks, self._chunks, self._held = self._chunks, [], 0
        if not self._is_over:
            self._connection.resume()
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Connection(asyncio.Protocol):
    """One connection to a replica. The parser calls the `on_…` methods."""

    transport: asyncio.Transport

    def __init__(self, wire: Wire) -> None:
        self.idle_since = 0.0
        self.is_lost = False
        self._wire = wire
        self._parser = httptools.HttpResponseParser(self)
        self._head: asyncio.Future[Answer] | None = None
        self._answer: Answer | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0
        self._is_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's: it stands."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    async def ask(self, request: bytes) -> Answer:
        """Send, and wait for the head of the answer. Raises BrokeOff, NotHttp."""
        self._head = asyncio.get_running_loop().create_future()
        self._head_bytes = 0
        self.transport.write(request)
        try:
            return await self._head
        except BaseException:
            self.abort()  # nobody waits any longer: the replica should not either
            raise

    def data_received(self, data: bytes) -> None:
        """asyncio's: bytes have come."""
        if self._head is None:
            self._fail(NotHttp("it spoke without being asked"))
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail(NotHttp("it changed to another protocol"))
        except httptools.HttpParserError as error:
            self._fail(NotHttp(f"{type(error).__name__}: {error}"))
        if self._answer is None and self._head is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._fail(NotHttp(f"the head of its answer does not end within {MAX_HEAD_BYTES} bytes"))

    def on_message_begin(self) -> None:
        """An answer begins. One that nobody asked for must not be taken for the next request's."""
        if self._head is None:
            self.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, of the head or of a chunked body's trailer."""
        if self._answer is None:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head is whole."""
        status = self._parser.get_status_code()
        headers, self._headers = self._headers, []
        if status < 200:
            return  # 100 Continue, 103 Early Hints: the answer proper follows
        if self._head is None:
            return  # a second answer to one request: cut off where it began
        answer = self._answer = Answer(self, status, headers)
        answer.is_open_ended = not answer.has_no_body and not any(
            name.lower() in (b"content-length", b"transfer-encoding") for name, _ in headers
        )
        if not self._head.done():
            self._head.set_result(answer)

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        if self._answer is not None:
            self._answer.feed(body)

    def on_message_complete(self) -> None:
        """The answer is whole; the connection is free for the next one if both sides want to keep it."""
        answer = self._answer
        if answer is None:
            return
        self._answer = self._head = None
        answer.finish()
        self.resume()
        if self.transport.get_write_buffer_size():
            self.transport.abort()  # it did not want all of the request: closing would wait for it to take the rest
        elif self._parser.should_keep_alive():
            self._wire.give_back(self)
        else:
            self.transport.close()

    def eof_received(self) -> None:
        """asyncio's: the replica sends no more."""
        if self._answer is not None and self._answer.is_open_ended:
            answer, self._answer, self._head = self._answer, None, None
            answer.finish()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio's: it is gone."""
        self.is_lost = True
        self._fail(BrokeOff(f"the connection was lost{f': {exc}' if exc else ''}"))
        self._wire.forget(self)

    def pause(self) -> None:
        """Take no more from the replica for now: the client is slower than it."""
        if not self._is_paused and not self.is_lost:
            self._is_paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """Take from the replica again."""
        if self._is_paused:
            self._is_paused = False
            if not self.is_lost:
                self.transport.resume_reading()

    def abort(self) -> None:
        """Cut it off now."""
        self._head = self._answer = None
        if not self.is_lost:
            self.transport.abort()

    def _fail(self, error: Exception) -> None:
        head, answer, self._head, self._answer = self._head, self._answer, None, None
        if answer is not None:
            answer.finish(error)
        elif head is not None and not head.done():
            head.set_exception(error)
        if not self.is_lost:
            self.transport.abort()


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
                    _, connection = await loop.create_connection(
                        lambda: Connection(self), self._host, self._port, ssl=tls
                    )
        except TimeoutError as error:
            raise ConnectFailed(f"no connection within {CONNECT_TIMEOUT_S:g} s") from error
        except OSError as error:
            kind = NoRoom if error.errno in _NO_ROOM else ConnectFailed
            raise kind(str(error) or type(error).__name__) from error
        self._all.add(connection)
        return connection

    async def _connect_unix(self, loop: asyncio.AbstractEventLoop) -> Connection:
        """Over TCP a full queue makes one wait; here it is an error at once, and says that the replica is busy."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            while not self._has_joined(sock):
                await asyncio.sleep(QUEUE_FULL_S)
        except BaseException:
            sock.close()
            raise
        return (await loop.create_unix_connection(lambda: Connection(self), sock=sock))[1]

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
