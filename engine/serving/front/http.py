"""uvicorn around the front: which connections are kept, how long a slow one may take, and who may open the socket.

uvicorn itself waits for ever for the rest of a request, and for a client that stops reading. The protocol here does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from adapters.local import private_socket

KEEP_ALIVE_S = 300
"""Longer than any proxy keeps an idle connection: the side that sends requests must be the one to close it."""
HEADERS_S = 10.0
"""From a request's first byte to the end of its headers."""
BODY_S = 30.0
"""From there to the end of its body."""
STALL_S = 30.0
"""How long a client may take no byte of what waits for it. Then it is gone, and its slot is free."""
MAX_HEADER_BYTES = 64 << 10
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_LATE = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class GuardedProtocol(HttpToolsProtocol):
    """HTTP/1.1 with an end to everything that a client could drag out."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._reading: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._is_head = self._is_new = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A connection that never asks anything is closed like an idle one."""
        super().connection_made(transport)
        self._expect(KEEP_ALIVE_S)

    def connection_lost(self, exc: Exception | None) -> None:
        """No clock outlives its connection."""
        self._expect(None)
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Headers are bounded; the parser itself would collect them without end."""
        super().data_received(data)
        if not self._is_head or self.transport.is_closing():
            return
        # What came together with a request's first byte may be the end of the one before.
        if not self._is_new:
            self._head_bytes += len(data)
        self._is_new = False
        if self._head_bytes > MAX_HEADER_BYTES:
            self.transport.write(_TOO_LARGE)
            self.transport.close()

    def on_message_begin(self) -> None:
        """A request begins: its headers must come soon."""
        super().on_message_begin()
        self._head_bytes = 0
        self._is_head, self._is_new = True, True
        self._expect(HEADERS_S)

    def on_headers_complete(self) -> None:
        """The body must come soon."""
        self._is_head = False
        self._expect(BODY_S)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is here; from now on it is the server that takes its time."""
        self._expect(None)
        super().on_message_complete()

    def pause_writing(self) -> None:
        """The client does not take what is sent."""
        super().pause_writing()
        if self._writing is None:
            self._writing = self.loop.call_later(STALL_S, self.transport.abort)

    def resume_writing(self) -> None:
        """It does again."""
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None
        if self.flow is not None:
            super().resume_writing()

    def _expect(self, seconds: float | None) -> None:
        if self._reading is not None:
            self._reading.cancel()
        self._reading = None if seconds is None else self.loop.call_later(seconds, self._too_slow)

    def _too_slow(self) -> None:
        self._reading = None
        if self.transport.is_closing():
            return
        has_begun = self.headers is not None
        is_answered = self.cycle is not None and self.cycle.response_started
        if has_begun and not is_answered:
            self.transport.write(_LATE)
        self.transport.close()


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: what SIGTERM means is the model server's own matter."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield


def raise_descriptor_limit() -> None:
    """Let this process hold as many connections as it may: the soft limit is often a thousand."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def quiet_uvicorn() -> None:
    """Drop uvicorn's complaints about what is done on purpose here; its requests have lines of their own."""
    logging.getLogger("uvicorn.error").addFilter(_is_news)


@contextlib.asynccontextmanager
async def listening(path: str, app: Starlette) -> AsyncIterator[None]:
    """Serve `app` on a Unix socket that only this user may open, for as long as the block runs."""
    listener = private_socket.bind(path)
    config = uvicorn.Config(
        app,
        http=GuardedProtocol,
        ws="none",
        loop="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=2,
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await serving
        Path(path).unlink(missing_ok=True)


def _is_news(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return "returned without completing response" not in message and "Invalid HTTP request" not in message
