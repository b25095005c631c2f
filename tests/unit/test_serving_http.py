"""Connections that mean no good, or have met with an accident: on a real socket, with shorter clocks."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from engine.serving.front import http
from engine.serving.front.errors import ApiError
from engine.serving.front.reading import MAX_BODY_BYTES, read_json

ASK = b"POST /echo HTTP/1.1\r\nhost: m\r\ncontent-type: application/json\r\ncontent-length: 2\r\n"
GET = b"GET /health HTTP/1.1\r\nhost: m\r\n\r\n"
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Site:
    """A server with one route that reads, one that answers, and one that never stops sending."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.stopped = asyncio.Event()

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/echo", self._echo, methods=["POST"]),
                Route("/health", self._health),
                Route("/endless", self._endless),
                Route("/broken", self._broken),
            ]
        )

    async def connect(self) -> Connection:
        return await asyncio.open_unix_connection(self.path)

    async def _health(self, request: Request) -> Response:
        return JSONResponse({})

    async def _echo(self, request: Request) -> Response:
        try:
            return JSONResponse(await read_json(request))
        except ApiError as error:
            return error.response("r")

    async def _endless(self, request: Request) -> Response:
        async def events() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"x" * 65536
                    await asyncio.sleep(0)
            finally:
                self.stopped.set()

        return StreamingResponse(events())

    async def _broken(self, request: Request) -> Response:
        return _Broken()


class _Broken(Response):
    """A stream that ends in the middle."""

    async def __call__(self, scope: object, receive: object, send: object) -> None:
        assert callable(send)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"some", "more_body": True})


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    for name in ("HEADERS_S", "BODY_S", "STALL_S"):
        monkeypatch.setattr(http, name, 0.3)
    http.raise_descriptor_limit()
    made = Site(tmp_path / "m.sock")
    async with http.listening(made.path, made.app()):
        while not Path(made.path).exists():
            await asyncio.sleep(0.01)
        yield made


async def head(connection: Connection) -> bytes:
    """The status line of the next answer."""
    async with asyncio.timeout(20):
        return (await connection[0].readuntil(b"\r\n\r\n")).split(b"\r\n")[0]


async def is_closed(connection: Connection) -> bool:
    """The server closes the connection, now or soon."""
    async with asyncio.timeout(20):
        with contextlib.suppress(ConnectionError):
            await connection[0].read()
    return True


@pytest.mark.parametrize("sent", [b"P", b"POST /echo HTTP/1.1\r\nhost: m\r\nx-a: ", ASK, ASK + b"\r\n{"])
async def test_a_request_that_does_not_go_on_is_answered_408_and_closed(site: Site, sent: bytes) -> None:
    slow = await site.connect()
    slow[1].write(sent)
    assert await head(slow) == b"HTTP/1.1 408 Request Timeout"
    assert await is_closed(slow)


async def test_a_header_a_moment_does_not_keep_a_connection(site: Site) -> None:
    slow = await site.connect()
    slow[1].write(b"GET /health HTTP/1.1\r\n")

    async def drip() -> None:
        for number in range(1000):
            slow[1].write(b"x-%d: 1\r\n" % number)
            await asyncio.sleep(0.02)

    dripping = asyncio.create_task(drip())
    assert await head(slow) == b"HTTP/1.1 408 Request Timeout"
    assert await is_closed(slow)
    dripping.cancel()


async def test_headers_without_end_are_refused(site: Site) -> None:
    large = await site.connect()
    large[1].write(b"GET /health HTTP/1.1\r\n" + b"x-a: " + b"a" * 8 * http.MAX_HEADER_BYTES)
    assert (await head(large)).startswith(b"HTTP/1.1 431")
    assert await is_closed(large)


async def test_a_body_of_ten_megabytes_is_refused_before_it_is_sent(site: Site) -> None:
    large = await site.connect()
    large[1].write(ASK.replace(b"length: 2", b"length: 10000000") + b"\r\n")
    assert (await head(large)).startswith(b"HTTP/1.1 413")


async def test_a_body_that_hides_its_length_is_refused_when_it_is_too_long(site: Site) -> None:
    large = await site.connect()
    large[1].write(ASK.replace(b"content-length: 2", b"transfer-encoding: chunked") + b"\r\n")
    part = b"10000\r\n" + b"a" * 0x10000 + b"\r\n"
    for _ in range(MAX_BODY_BYTES // 0x10000 + 1):
        large[1].write(part)
    assert (await head(large)).startswith(b"HTTP/1.1 413")


async def test_a_client_that_stops_reading_is_cut_off_and_what_worked_for_it_stops(site: Site) -> None:
    stalled = socket.socket(socket.AF_UNIX)
    stalled.connect(site.path)
    stalled.sendall(b"GET /endless HTTP/1.1\r\nhost: m\r\n\r\n")
    async with asyncio.timeout(20):
        await site.stopped.wait()
    stalled.close()


async def test_a_client_that_vanishes_stops_what_worked_for_it(site: Site) -> None:
    gone = await site.connect()
    gone[1].write(b"GET /endless HTTP/1.1\r\nhost: m\r\n\r\n")
    await head(gone)
    gone[1].transport.abort()
    async with asyncio.timeout(20):
        await site.stopped.wait()


async def test_a_stream_that_breaks_off_has_no_last_chunk(site: Site) -> None:
    asked = await site.connect()
    asked[1].write(b"GET /broken HTTP/1.1\r\nhost: m\r\n\r\n")
    async with asyncio.timeout(20):
        answer = await asked[0].read()
    assert answer.endswith(b"4\r\nsome\r\n")


async def test_five_thousand_idle_connections_do_not_stand_in_the_way(site: Site) -> None:
    idle = []
    for _ in range(5000):
        one = socket.socket(socket.AF_UNIX)
        one.setblocking(False)
        await asyncio.get_running_loop().sock_connect(one, site.path)
        idle.append(one)
    asked = await site.connect()
    for _ in range(20):
        asked[1].write(GET)
        assert await head(asked) == b"HTTP/1.1 200 OK"
        await asked[0].readexactly(2)
    # An idle one is as good as new.
    reader, writer = await asyncio.open_connection(sock=idle[2500])
    writer.write(GET)
    assert await head((reader, writer)) == b"HTTP/1.1 200 OK"
    writer.close()
    for one in idle:
        one.close()
