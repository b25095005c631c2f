"""A replica's answer as it comes: its status, its header lines as they are, and a body that is whole or comes piece by piece."""

from __future__ import annotations

import asyncio
from typing import Protocol

from engine.gateway.wire.errors import TooLarge

HIGH_WATER = 128 << 10
"""Bytes of an answer held before the replica is told to wait, where it is passed on piece by piece."""


class Source(Protocol):
    """The connection that an answer comes over."""

    def pause(self) -> None:
        """Take no more from the replica for now."""

    def resume(self) -> None:
        """Take from it again."""

    def abort(self) -> None:
        """Cut it off."""


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

    def __init__(self, connection: Source, status: int, headers: list[tuple[bytes, bytes]]) -> None:
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
