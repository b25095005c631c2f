"""What the soak's clients do to a gateway: good requests, bad ones, and clients that do not wait for the end."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import aiohttp

ANSWER_S = 120.0
_THINK_S = 0.03
_MOST_REMEMBERED = 20
_WORDS = "the boss reads the deck and the wind before anyone moves an aircraft over it "


@dataclass
class Tally:
    """What came of the soak's requests. `unexpected` says of each wrong answer what it was."""

    done: Counter[str] = field(default_factory=Counter)
    unexpected_count: int = 0
    unexpected: list[str] = field(default_factory=list)

    def wrong(self, kind: str, what: str) -> None:
        """Remember an answer that should not have been."""
        self.unexpected_count += 1
        if len(self.unexpected) < _MOST_REMEMBERED:
            self.unexpected.append(f"{kind}: {what}")


class Mix:
    """A seeded mixture of requests against the gateway at `port`, for a model with a context of `context` characters."""

    def __init__(self, port: int, context: int, seed: int = 0) -> None:
        self._port = port
        self._context = context
        self._seed = seed
        self.tally = Tally()

    async def run(self, clients: int, seconds: float) -> None:
        """`clients` at once for `seconds`; each finishes what it began."""
        end = time.monotonic() + seconds
        timeout = aiohttp.ClientTimeout(total=ANSWER_S)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{self._port}", timeout=timeout, connector=connector) as web:
            await asyncio.gather(*(self._client(web, random.Random(self._seed + n), end) for n in range(clients)))
        self._seed += clients

    async def _client(self, web: aiohttp.ClientSession, rng: random.Random, end: float) -> None:
        kinds: list[tuple[int, str, Callable[[aiohttp.ClientSession, random.Random], Awaitable[str]]]] = [
            (30, "whole", self._whole),
            (30, "stream", self._stream),
            (15, "cancel", self._cancel),
            (8, "long prompt", self._long),
            (8, "bad request", self._bad),
            (5, "too long", self._too_long),
            (4, "broken off", self._broken_off),
        ]
        while time.monotonic() < end:
            _, kind, act = rng.choices(kinds, [weight for weight, _, _ in kinds])[0]
            try:
                wrong = await act(web, rng)
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                wrong = f"{type(error).__name__}: {error}"
            self.tally.done[kind] += 1
            if wrong:
                self.tally.wrong(kind, wrong)
            await asyncio.sleep(rng.random() * _THINK_S)

    async def _whole(self, web: aiohttp.ClientSession, rng: random.Random) -> str:
        return await _expect(web, _body(rng, rng.randint(1, 40)), 200)

    async def _long(self, web: aiohttp.ClientSession, rng: random.Random) -> str:
        length = self._context - rng.randint(20, self._context // 4)
        return await _expect(web, {**_body(rng, 10), "prompt": _prose(rng, length)}, 200)

    async def _bad(self, web: aiohttp.ClientSession, rng: random.Random) -> str:
        return await _expect(web, {**_body(rng, 5), "temperature": 9.0 + rng.random()}, 400)

    async def _too_long(self, web: aiohttp.ClientSession, rng: random.Random) -> str:
        return await _expect(web, {**_body(rng, 5), "prompt": _prose(rng, 2 * self._context)}, 400)

    async def _stream(self, web: aiohttp.ClientSession, rng: random.Random) -> str:
        async with web.post("/v1/completions", json={**_body(rng, rng.randint(1, 60)), "stream": True}) as response:
            content = await response.read()
        if response.status != 200:
            return f"{response.status} {content[:200]!r}"
        return "" if content.rstrip().endswith(b"data: [DONE]") else f"a stream ended with {content[-100:]!r}"

    async def _cancel(self, web: aiohttp.ClientSession, rng: random.Random) -> str:
        """Leave after the first event: the connection is closed, not read to its end."""
        async with web.post("/v1/completions", json={**_body(rng, self._context // 2), "stream": True}) as response:
            if response.status != 200:
                return f"{response.status} {(await response.read())[:200]!r}"
            await response.content.readline()
            response.close()
        return ""

    async def _broken_off(self, web: aiohttp.ClientSession, rng: random.Random) -> str:
        """Half a request, then a reset."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        body = json.dumps(_body(rng, 5)).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: soak\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        request = head + body
        writer.write(request[: rng.randint(1, len(request) - 1)])
        await writer.drain()
        connection: socket.socket = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()
        del reader
        return ""


async def _expect(web: aiohttp.ClientSession, body: dict[str, object], status: int) -> str:
    """ "" when the answer has this status, else what it was."""
    async with web.post("/v1/completions", json=body) as response:
        content = await response.read()
    return "" if response.status == status else f"{response.status} in place of {status}: {content[:200]!r}"


def _body(rng: random.Random, new: int) -> dict[str, object]:
    return {"prompt": _prose(rng, rng.randint(1, 60)), "max_tokens": new, "temperature": rng.choice([0.0, 0.9])}


def _prose(rng: random.Random, length: int) -> str:
    """Text of exactly `length` characters, hardly ever the same twice."""
    start = rng.randrange(len(_WORDS))
    marks = "".join(rng.choice("abcdefghij ") for _ in range(min(8, length)))
    return (marks + _WORDS[start:] + _WORDS * (length // len(_WORDS) + 1))[:length]
