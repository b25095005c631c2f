"""An answer of a replica on the client's side of the gateway: header lines are passed on as the bytes they came as."""

from __future__ import annotations

import time
from email.utils import formatdate
from http import HTTPStatus

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpVersion11

_STATUS_LINES = {int(s): b"HTTP/1.1 %d %s\r\n" % (s, s.phrase.encode()) for s in HTTPStatus}


class Relayed(web.StreamResponse):
    """An answer that goes out as it is: status, `lines` (each with its end), body.

    With a `body` it is sent whole; without one it is a stream, which ends with `write_eof`: in chunks, or, for a client
    of HTTP/1.0, by the end of the connection. aiohttp's own answers build and check every header; these came from a
    server's parser, and most requests are answered by one of them.
    """

    def __init__(self, status: int, lines: bytes, body: bytes | None = None) -> None:
        super().__init__(status=status)
        self._lines = lines
        self._whole = body
        self._request: web.BaseRequest | None = None
        self._is_chunked = False
        self._is_ended = False
        self._is_kept = True

    @property
    def keep_alive(self) -> bool:
        """The client's connection stays open after this answer."""
        return self._is_kept

    def force_close(self) -> None:
        """Close the client's connection after this answer."""
        self._is_kept = False

    @property
    def prepared(self) -> bool:
        """Its head is on the way."""
        return self._request is not None

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send the head, and the body where it is whole."""
        if self._request is not None:
            return None
        self._request = request
        is_1_1 = request.version >= HttpVersion11
        if not (request.keep_alive and is_1_1):
            self.force_close()
        body = self._whole
        if self.status in (204, 304):  # nothing may follow such a head: the client would read it as its next answer
            body, framing = b"", b""
        elif body is not None:
            framing = b"Content-Length: %d\r\n" % len(body)
        elif is_1_1:
            self._is_chunked, framing = True, b"Transfer-Encoding: chunked\r\n"
        else:
            self.force_close()
            framing = b""
        if not self._is_kept:
            framing += b"Connection: close\r\n"
        line = _STATUS_LINES.get(self.status) or b"HTTP/1.1 %d \r\n" % self.status
        if b"\r\ndate:" not in b"\r\n" + self._lines.lower():
            framing += date_line()
        await self._send(request, b"%s%s%s\r\n%s" % (line, self._lines, framing, body or b""))
        return None

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send a piece of a stream, and wait while the client is slow. Raises ConnectionError when it is gone."""
        assert self._request is not None
        await self._send(self._request, b"%x\r\n%s\r\n" % (len(data), data) if self._is_chunked else bytes(data))

    async def write_eof(self, data: bytes = b"") -> None:
        """End a stream. A whole answer has ended already."""
        if self._is_ended or self._request is None:
            return
        self._is_ended = True
        if self._is_chunked:
            await self._send(self._request, b"0\r\n\r\n")

    async def _send(self, request: web.BaseRequest, data: bytes) -> None:
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client is gone")
        transport.write(data)
        request.writer.output_size += len(data)  # by this the server knows that it cannot answer with an error any more
        if request.protocol.writing_paused:
            await request.writer.drain()


_date = (0, b"")


def date_line() -> bytes:
    """The Date of now, made once a second."""
    global _date
    now = int(time.time())
    if _date[0] != now:
        _date = (now, b"Date: %s\r\n" % formatdate(now, usegmt=True).encode())
    return _date[1]
