"""One connection to a replica: a request goes out as bytes, httptools (the parser of node.js) reads what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import httptools

from engine.gateway.wire.answer import Answer
from engine.gateway.wire.errors import BrokeOff, NotHttp

MAX_HEAD_BYTES = 64 << 10


class Connection(asyncio.Protocol):
    """One connection to a replica. The parser calls the `on_…` methods."""

    transport: asyncio.Transport

    def __init__(self, on_idle: Callable[[Connection], None], on_lost: Callable[[Connection], None]) -> None:
        """`on_idle` is told when an answer is whole and the connection may be used again, `on_lost` when it is gone."""
        self.idle_since = 0.0
        self.is_lost = False
        self._on_idle = on_idle
        self._on_lost = on_lost
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
            self._on_idle(self)
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
        self._on_lost(self)

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
