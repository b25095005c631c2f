"""The public port's HTTP server: what a request's head may be like, and how long it may take to arrive.

The server is aiohttp's. Its parser refuses what would smuggle one request inside another (two lengths, a length beside
chunks, odd line ends); here it gets its limits, errors in the shape that OpenAI's clients know, and a clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler, _ErrInfo
from aiohttp.web_server import Server

from engine.gateway.answers import error_answer
from state.access_config import RequestConfig

LINGER_S = 2.0
_LATE = (
    b'{"error": {"message": "the request\'s head did not arrive in time or is too large", '
    b'"type": "invalid_request", "param": null, "code": "head_too_slow"}}'
)
_LATE_ANSWER = (
    b"HTTP/1.1 408 Request Timeout\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
    % (len(_LATE), _LATE)
)


class DoorHandler(RequestHandler):
    """One connection. A clock runs only while a head has begun to come and is not all here yet."""

    __slots__ = ("_head_bytes", "_head_timer", "_limits")

    def __init__(self, manager: Server, limits: RequestConfig, **settings: Any) -> None:
        super().__init__(manager, **settings)
        self._limits = limits
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0

    def data_received(self, data: bytes) -> None:
        """Let the parser have the bytes, and see whether they left a head half come."""
        super().data_received(data)
        waiter = self._waiter
        if (
            waiter is None or waiter.done() or self._messages
        ):  # a request is here: these bytes are its body, or the next
            if self._messages and len(data) + self._head_bytes > self._limits.max_header_bytes:
                self._refuse_large_head()
            if self._head_timer is not None:
                self._head_came()
            return
        self._head_bytes += len(data)
        if self._head_timer is None:
            self._head_timer = self._loop.call_later(self._limits.header_timeout, self._head_late)
        if self._head_bytes > self._limits.max_header_bytes:
            self._head_late()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop the clock."""
        if self._head_timer is not None:
            self._head_came()
        super().connection_lost(exc)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Answer what could not be parsed, or a fault of ours, as every other error is answered."""
        if request.writer is not None and request.writer.output_size > 0:
            raise ConnectionError("an answer has begun already; it can only be cut off")
        if status >= 500:
            self.log_exception("Error handling request", exc_info=exc)
            answer = error_answer(
                status, "server_error", "internal_error", "the gateway failed on this request; try again"
            )
        else:
            said = (message or "it is not HTTP").splitlines()[0][:200].rstrip(":")
            answer = error_answer(status, "invalid_request", "bad_request", f"this request cannot be read: {said}")
        answer.force_close()
        return answer

    def _refuse_large_head(self) -> None:
        """Put an error in the place of a request whose head is too large; whatever comes behind it is not read."""
        message = self._messages[-1][0]
        if isinstance(message, RawRequestMessage):
            size = sum(len(name) + len(value) + 4 for name, value in message.raw_headers)
            if size > self._limits.max_header_bytes:
                said = f"its headers have {size} bytes, and {self._limits.max_header_bytes} are taken"
                self._messages[-1] = (_ErrInfo(431, ValueError(said), said), EMPTY_PAYLOAD)

    def _head_came(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
        self._head_timer, self._head_bytes = None, 0

    def _head_late(self) -> None:
        self._head_came()
        if self.transport is not None:
            self.transport.write(_LATE_ANSWER)
        self.force_close()


class Door(Server):
    """Makes a handler for each connection."""

    def __init__(
        self,
        handle: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        limits: RequestConfig,
        request_factory: Callable[..., web.BaseRequest],
    ) -> None:
        super().__init__(handle, request_factory=request_factory, handler_cancellation=True)
        self._limits = limits

    @property
    def open_connections(self) -> int:
        """How many there are; `connections` would make a list of them."""
        return len(self._connections)

    def __call__(self) -> RequestHandler:
        """A handler for a new connection."""
        limits = self._limits
        return DoorHandler(
            self,
            limits,
            loop=self._loop,
            access_log=None,
            keepalive_timeout=limits.idle_timeout,
            lingering_time=LINGER_S,
            max_line_size=min(8190, limits.max_header_bytes),
            max_field_size=min(8190, limits.max_header_bytes),
            max_headers=limits.max_headers,
        )
