"""What a request may look like: smuggled, oversized, slow and broken ones, on raw connections."""

from __future__ import annotations

import asyncio
import json
import resource
import zlib
from contextlib import suppress
from typing import Any

import pytest

BODY = b'{"model": "chat", "prompt": "x"}'
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
SMUGGLED = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"


def status_of(answer: bytes) -> int:
    """The status of a raw answer; what could not be read is answered in HTTP/1.0."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.") else 0


@pytest.mark.parametrize(
    "request_bytes",
    [
        HEAD + b"Content-Length: 32\r\nContent-Length: 5\r\n\r\n" + BODY,
        HEAD + b"Content-Length: 32\r\nContent-Length: 32\r\n\r\n" + BODY,
        HEAD + b"Content-Length: 32, 32\r\n\r\n" + BODY,
        HEAD + b"Content-Length: +32\r\n\r\n" + BODY,
        HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
        HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n" + SMUGGLED,
        HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + SMUGGLED,
        HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
        HEAD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
        HEAD + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
        HEAD + b"X-A: b\r\n Content-Length: 32\r\n\r\n" + BODY,
        HEAD + b"X-A: b\x00c\r\nContent-Length: 32\r\n\r\n" + BODY,
        HEAD + b"X A: b\r\nContent-Length: 32\r\n\r\n" + BODY,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n20;\n\r\n" + BODY + b"\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n0x20\r\n" + BODY + b"\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n" + BODY + b"\r\n0\r\n\r\n",
        b"POST /v1/completions HTTP/9.9\r\nHost: a\r\nContent-Length: 32\r\n\r\n" + BODY,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello",
    ],
)
async def test_a_request_that_could_mean_two_is_refused_and_its_connection_closed(
    house: Any, request_bytes: bytes
) -> None:
    await house.start()
    answer = await house.wire(request_bytes)
    assert not house.backend.seen, "nothing of it may reach a replica"
    assert status_of(answer) == 400 and answer.count(b"HTTP/1.") == 1
    error = json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]
    assert error["type"] == "invalid_request" and error["message"]


async def test_two_requests_on_one_connection_are_two(house: Any) -> None:
    await house.start()
    one = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
    answer = await house.wire(one + one.replace(b"Host: a", b"Connection: close\r\nHost: a"))
    assert answer.count(b"HTTP/1.1 200 OK") == 2 and len(house.backend.seen) == 2


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        (b"X-A: " + b"b" * 9000 + b"\r\n", 400),
        (b"".join(b"X-%d: b\r\n" % i for i in range(60)), 400),
        (b"".join(b"X-%d: %s\r\n" % (i, b"b" * 800) for i in range(20)), 431),
    ],
)
async def test_heads_are_bounded_in_size_and_number(house: Any, headers: bytes, said: int) -> None:
    await house.start({"requests": {"max_headers": 50, "max_header_bytes": 10_000}})
    answer = await house.wire(HEAD + headers + b"Content-Length: 32\r\n\r\n" + BODY)
    assert status_of(answer) == said
    assert not house.backend.seen


async def test_a_head_that_never_ends_is_cut_off_by_size(house: Any) -> None:
    await house.start({"requests": {"max_header_bytes": 4096}})
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
    with suppress(ConnectionError):
        for number in range(10_000):
            writer.write(HEAD if not number else b"X-%d: bbbbbbbbbbbbbbbbbbbbbbbb\r\n" % number)
            await writer.drain()
            await asyncio.sleep(0)
    with suppress(ConnectionError):
        assert status_of(await reader.read()) in (400, 408)
    writer.close()


async def test_a_head_that_comes_by_the_byte_is_cut_off_by_time_while_others_are_served(house: Any) -> None:
    await house.start({"requests": {"header_timeout": 0.3, "idle_timeout": 30.0}})
    reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
    idle_reader, idle_writer = await asyncio.open_connection("127.0.0.1", house.port)
    for byte in HEAD[:4]:
        writer.write(bytes([byte]))
        await asyncio.sleep(0.01)
    assert (await house.ask())[0] == 200
    async with asyncio.timeout(10):
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 408") and b"head_too_slow" in answer
    idle_writer.write(HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY)
    async with asyncio.timeout(10):
        assert (await idle_reader.read()).startswith(b"HTTP/1.1 200"), "a connection that has said nothing may wait"
    writer.close()
    idle_writer.close()


async def test_a_body_that_comes_by_the_byte_is_cut_off_by_time(house: Any) -> None:
    await house.start({"requests": {"body_timeout": 0.3}})
    answer = await house.wire(HEAD + b"Content-Length: 32\r\n\r\n{")
    assert answer.startswith(b"HTTP/1.1 408") and b"body_too_slow" in answer
    assert not house.backend.seen


async def test_an_idle_connection_is_let_go_in_time(house: Any) -> None:
    await house.start({"requests": {"idle_timeout": 0.2}})
    assert await house.wire(b"") == b""


async def test_a_body_is_refused_by_its_size_said_or_unsaid_and_when_packed_small(house: Any) -> None:
    await house.start({"requests": {"max_body_bytes": 2000}})
    said = await house.wire(HEAD + b"Content-Length: 1000000000\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 413") and b"2000 bytes" in said
    chunk = b"%x\r\n%s\r\n" % (1500, b"x" * 1500)
    unsaid = await house.wire(
        HEAD + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 2 + b"0\r\n\r\n"
    )
    assert unsaid.startswith(b"HTTP/1.1 413")
    bomb = zlib.compress(b'{"prompt": "' + b"x" * 5_000_000 + b'"}')
    async with house.session.post(
        "/v1/completions", data=bomb[:1990], headers={"Content-Encoding": "deflate"}
    ) as answer:
        assert answer.status in (400, 413)
    assert not house.backend.seen and (await house.ask())[0] == 200


@pytest.mark.parametrize(
    "body", [b'{"prompt": "\xff\xfe"}', b"\xed\xa0\x80", b'{"model": "chat", "prompt": "x"', b"", b"[1]", b"[" * 60_000]
)
async def test_a_body_that_is_no_json_object_in_utf8_is_refused_with_the_reason(house: Any, body: bytes) -> None:
    await house.start()
    async with house.session.post("/v1/completions", data=body) as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (400, "bad_json")
    assert not house.backend.seen


async def test_thousands_of_idle_connections_cost_nobody_a_request(house: Any) -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    number = min(5000, (soft - 600) // 2)  # both ends of each are ours
    await house.start()
    opened = []
    for _ in range(0, number, 250):
        opened += await asyncio.gather(*(asyncio.open_connection("127.0.0.1", house.port) for _ in range(250)))
    assert len(opened) >= min(4900, number)
    for _ in range(20):
        assert (await house.ask())[0] == 200
    reader, writer = opened[0]
    writer.write(HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY)
    assert (await reader.read()).startswith(b"HTTP/1.1 200"), "an old one is served like a new one"
    for _, one in opened:
        one.transport.abort()
