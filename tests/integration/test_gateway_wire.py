"""The gateway's way upstream, against servers that speak byte by byte as the test says."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from engine.gateway.wire.answer import Answer
from engine.gateway.wire.connection import MAX_HEAD_BYTES
from engine.gateway.wire.errors import BrokeOff, ConnectFailed, NotHttp, TooLarge
from engine.gateway.wire.wire import Wire

Speak = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
LIMIT = 1 << 20
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


class Server:
    """A TCP server whose every connection is spoken by `speak`; counts its connections."""

    def __init__(self, speak: Speak) -> None:
        self.speak = speak
        self.connections = 0
        self.asked: list[bytes] = []

    async def meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await self.speak(reader, writer)
        writer.close()

    async def request(self, reader: asyncio.StreamReader) -> bytes:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
        body = await reader.readexactly(length)
        self.asked.append(head + body)
        return body


@asynccontextmanager
async def wired(speak: Callable[[Server], Speak]) -> AsyncIterator[tuple[Wire, Server]]:
    server = Server(lambda reader, writer: speak(server)(reader, writer))
    listening = await asyncio.start_server(server.meet, "127.0.0.1", 0)
    wire = Wire(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
    try:
        async with asyncio.timeout(20):
            yield wire, server
    finally:
        wire.abort()
        listening.close()


def each(*pieces: bytes, then_close: bool = False) -> Callable[[Server], Speak]:
    """Answer every request on a connection with these pieces, each in a packet of its own."""

    def of(server: Server) -> Speak:
        async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                await server.request(reader)
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
                if then_close:
                    return

        return speak

    return of


async def all_of(answer: Answer) -> bytes:
    pieces = []
    while piece := await answer.readany():
        pieces.append(piece)
    return b"".join(pieces)


async def test_one_connection_serves_one_request_after_another() -> None:
    async with wired(each(OK)) as (wire, server):
        for _ in range(5):
            answer = await wire.post("/v1/x", b"A: b\r\n", b"body")
            assert (answer.status, answer.content_length, await answer.read(LIMIT)) == (200, 5, b"hello")
            answer.close()
        assert server.connections == 1
        assert (
            server.asked[4]
            == b"POST /v1/x HTTP/1.1\r\nHost: %s\r\nA: b\r\nContent-Length: 4\r\n\r\nbody" % wire.authority
        )


async def test_an_answer_reads_the_same_however_the_network_cut_it() -> None:
    async with wired(each(*(OK[at : at + 1] for at in range(len(OK))))) as (wire, server):
        for _ in range(3):
            assert await (await wire.get("/")).read(LIMIT) == b"hello"
        assert server.connections == 1


async def test_chunks_pass_without_their_frame_and_the_connection_is_kept() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream; x=y\r\n\r\n"
    async with wired(each(chunked, b"3\r\nabc\r\n", b"2\r\nde\r\n0\r\nX-Trailer: 1\r\n\r\n")) as (wire, server):
        for _ in range(2):
            answer = await wire.post("/", b"", b"")
            assert answer.content_type == "text/event-stream" and answer.content_length is None
            assert await all_of(answer) == b"abcde"
        assert server.connections == 1


async def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    async with wired(each(b"HTTP/1.1 200 OK\r\n\r\n", b"some", b"thing", then_close=True)) as (wire, server):
        assert await all_of(await wire.get("/")) == b"something"
        assert await (await wire.get("/")).read(LIMIT) == b"something"
        assert server.connections == 2


async def test_early_hints_are_passed_over() -> None:
    async with wired(each(b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n", OK)) as (wire, _):
        answer = await wire.get("/")
        assert (answer.status, answer.header(b"link"), await answer.read(LIMIT)) == (200, b"", b"hello")


async def test_a_server_that_says_close_is_not_asked_on_that_connection_again() -> None:
    said = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
    async with wired(each(said)) as (wire, server):
        for _ in range(2):
            assert await (await wire.get("/")).read(LIMIT) == b"ok"
        assert server.connections == 2


@pytest.mark.parametrize("cut", [b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1234"])
async def test_an_answer_that_is_cut_off_is_an_error_and_never_a_short_answer(cut: bytes) -> None:
    async with wired(each(cut, then_close=True)) as (wire, _):
        with pytest.raises(BrokeOff):
            await (await wire.get("/")).read(LIMIT)


async def test_a_broken_stream_gives_what_came_and_then_says_so() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
    async with wired(each(head, then_close=True)) as (wire, _):
        answer = await wire.get("/")
        assert await answer.readany() == b"abc"
        with pytest.raises(BrokeOff):
            await answer.readany()


@pytest.mark.parametrize(
    "said",
    [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", b"X: " + b"y" * (MAX_HEAD_BYTES + 1)],
)
async def test_what_is_not_http_is_told_apart_from_a_broken_connection(said: bytes) -> None:
    async with wired(each(said)) as (wire, _):
        with pytest.raises(NotHttp):
            await wire.get("/")


async def test_a_head_without_an_end_is_not_collected_for_ever() -> None:
    endless = b"HTTP/1.1 200 OK\r\n" + b"X-Filler: y\r\n" * (MAX_HEAD_BYTES // 12)
    async with wired(each(endless)) as (wire, _):
        with pytest.raises(NotHttp, match="does not end"):
            await wire.get("/")


async def test_nobody_there_means_that_nothing_was_sent() -> None:
    async with wired(each(OK)) as (wire, _):
        address = "http://" + wire.authority.decode()
    with pytest.raises(ConnectFailed):
        await Wire(address).get("/")
    with pytest.raises(ConnectFailed):
        await Wire("unix:/nowhere/at/all.sock").get("/")


async def test_a_caller_that_gives_up_cuts_the_connection_so_that_the_work_can_stop() -> None:
    gone = asyncio.Event()

    def of(server: Server) -> Speak:
        async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await server.request(reader)
            await reader.read()
            gone.set()

        return speak

    async with wired(of) as (wire, _):
        asking = asyncio.create_task(wire.post("/", b"", b"long work"))
        await asyncio.sleep(0.05)
        asking.cancel()
        await gone.wait()
        with pytest.raises(asyncio.CancelledError):
            await asking


async def test_closing_a_half_read_stream_cuts_it_and_a_read_one_keeps_its_connection() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
    async with wired(each(head)) as (wire, server):
        answer = await wire.get("/")
        await answer.readany()
        answer.close()
        await (await wire.get("/")).readany()
        assert server.connections == 2


async def test_a_slow_reader_holds_the_server_back() -> None:
    sent = 0

    def of(server: Server) -> Speak:
        async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            await server.request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 40000000\r\n\r\n")
            for _ in range(400):
                writer.write(b"z" * 100_000)
                await writer.drain()
                sent += 100_000

        return speak

    async with wired(of) as (wire, _):
        answer = await wire.get("/")
        before = -1
        while sent != before:  # until the server is held back
            before = sent
            await asyncio.sleep(0.2)
        assert sent < 20_000_000
        assert len(await all_of(answer)) == 40_000_000


async def test_an_answer_nobody_asked_for_is_never_taken_for_the_next_one() -> None:
    async with wired(each(OK + OK)) as (wire, server):
        for _ in range(3):
            assert await (await wire.get("/")).read(LIMIT) == b"hello"
        assert server.connections == 3


async def test_a_connection_that_the_server_closed_while_idle_is_not_used() -> None:
    async with wired(each(OK, then_close=True)) as (wire, server):
        for _ in range(3):
            assert await (await wire.get("/")).read(LIMIT) == b"hello"
            await asyncio.sleep(0.05)
        assert server.connections == 3


async def test_the_beginning_of_an_unasked_answer_is_never_the_head_of_the_next_one() -> None:
    begun = OK + b"HTTP/1.1 200 OK\r\nX-Whose: nobody\r\nContent-Length: 4\r\n"

    def of(server: Server) -> Speak:
        async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await server.request(reader)
            writer.write(begun)
            await server.request(reader)
            writer.write(b"\r\nevil")

        return speak

    async with wired(of) as (wire, server):
        for _ in range(3):
            answer = await wire.get("/")
            assert (await answer.read(LIMIT), answer.header(b"x-whose")) == (b"hello", b"")
        assert server.connections == 3


async def test_a_server_that_answers_early_and_takes_no_more_keeps_no_connection() -> None:
    is_gone = asyncio.Event()

    def of(server: Server) -> Speak:
        async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
            while not is_gone.is_set():  # nothing is read: only a reset says that the other side gave up
                writer.write(b" " * 1024)
                try:
                    await writer.drain()
                except ConnectionError:
                    is_gone.set()
                await asyncio.sleep(0.01)

        return speak

    async with wired(of) as (wire, _):
        answer = await wire.post("/v1/x", b"", b"x" * (32 << 20))
        assert (answer.status, await answer.read(LIMIT)) == (413, b"")
        await is_gone.wait()


async def test_an_answer_beyond_what_can_be_held_is_an_error_and_not_a_full_memory() -> None:
    endless = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + (b"10000\r\n" + b"x" * 0x10000 + b"\r\n") * 40
    async with wired(each(endless)) as (wire, _):
        answer = await wire.get("/")
        with pytest.raises(TooLarge):
            await answer.read(LIMIT)
        answer.close()


async def test_a_full_queue_of_a_unix_socket_is_a_wait_and_not_a_dead_replica(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen(1)
        wire = Wire(f"unix:{tmp_path / 's'}")
        asking = [asyncio.create_task(wire.get("/")) for _ in range(5)]
        done, _ = await asyncio.wait(asking, timeout=0.1)
        assert not done
        listening = await asyncio.start_unix_server(_say_ok, sock=listener)
        async with asyncio.timeout(20):
            assert {answer.status for answer in await asyncio.gather(*asking)} == {200}
        wire.abort()
        listening.close()


async def _say_ok(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(OK)
