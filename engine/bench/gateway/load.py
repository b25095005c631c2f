"""`python -m engine.bench.gateway.load '{"mode": …}'`: the load generator, a process of its own. Prints one JSON line.

Three modes, all on keep-alive connections: `closed` (each connection asks again when it has its answer), `open` (so
many a second whatever the answers do) and `events` (server-sent event streams, whose events carry their time of
leaving). It parses with httptools on uvloop and keeps nothing but numbers, so that it is cheaper than what it measures.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar, cast

import httptools
import uvloop

ASK = {"model": "chat", "prompt": "To be, or not to be: that is the question", "max_tokens": 20}
CONNECT_S = 10.0
LEFT_AT = re.compile(rb'data: \{"at":(\d+)')


@dataclass(frozen=True, slots=True)
class Order:
    """What to send where. `headers` go with each request."""

    mode: str
    port: int
    seconds: float = 2.0
    connections: int = 32
    rate: float = 500.0
    total: int = 0
    """Closed mode: end after so many requests instead of after `seconds`."""
    path: str = "/v1/completions"
    headers: dict[str, str] = field(default_factory=dict)
    chat: bool = False
    """The body is a chat: LiteLLM needs one."""

    def as_json(self) -> str:
        """The order as the program's argument."""
        return json.dumps(asdict(self))

    def body(self) -> bytes:
        """The body of one request."""
        asked: dict[str, Any] = dict(ASK)
        if self.chat:
            asked = {"model": "chat", "messages": [{"role": "user", "content": ASK["prompt"]}], "max_tokens": 20}
        if self.mode == "events":
            asked |= {"stream": True, "events": int(self.seconds * self.rate), "rate": self.rate}
        return json.dumps(asked).encode()

    def request(self, more: Mapping[str, Any] | None = None) -> bytes:
        """The bytes of one request; `more` goes into its body."""
        body = json.dumps({**json.loads(self.body()), **more}).encode() if more else self.body()
        lines = [f"POST {self.path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", "Content-Type: application/json"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


@dataclass(slots=True)
class Found:
    """What came of it. Times in milliseconds; `releases` is who answered, by the gateway's word."""

    seconds: float = 0.0
    answered: int = 0
    failed: int = 0
    took_ms: list[float] = field(default_factory=list)
    releases: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)

    def as_json(self) -> str:
        """Counts and quantiles."""
        took = sorted(self.took_ms)
        quantiles = {f"p{q}_ms": took[min(len(took) - 1, len(took) * q // 100)] if took else None for q in (50, 99)}
        rate = self.answered / self.seconds if self.seconds else 0.0
        counts = {"answered": self.answered, "failed": self.failed, "rate": rate, "timed": len(took)}
        return json.dumps({**counts, **quantiles, "releases": dict(self.releases), "errors": dict(self.errors)})


class Connection(asyncio.Protocol):
    """One keep-alive connection. `done` is called when an answer is whole (True), or the connection is lost (False)."""

    transport: asyncio.Transport

    def __init__(self, found: Found, done: Callable[[Connection, bool], None], is_timed: bool = True) -> None:
        self.found = found
        self.done = done
        self.is_timed = is_timed
        self.asked_at = 0.0
        self.is_asking = False
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def ask(self, request: bytes) -> None:
        """Send one request now."""
        self.is_asking, self.asked_at = True, time.perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        """See a piece of the answer."""
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note who answered."""
        if name.lower() == b"x-airboss-release":
            self.found.releases[value.decode()] += 1

    def on_body(self, body: bytes) -> None:
        """Time the events in it."""
        if not self.is_timed:
            now = time.monotonic_ns()
            for left_at in LEFT_AT.findall(body):
                self.found.took_ms.append((now - int(left_at)) / 1e6)

    def on_message_complete(self) -> None:
        """The answer is whole."""
        self.is_asking = False
        if self.is_timed:
            self.found.took_ms.append((time.perf_counter() - self.asked_at) * 1000)
        status = self._parser.get_status_code()
        if status == 200:
            self.found.answered += 1
        else:
            self.found.failed += 1
            self.found.errors[f"status {status}"] += 1
        is_kept = self._parser.should_keep_alive()
        self._parser = httptools.HttpResponseParser(self)
        if not is_kept:
            self.transport.close()
        self.done(self, is_kept)

    def connection_lost(self, exc: Exception | None) -> None:
        """An answer that was awaited does not come any more."""
        if self.is_asking:
            self.is_asking = False
            self.found.failed += 1
            self.found.errors["connection lost"] += 1
            self.done(self, False)


C = TypeVar("C", bound=Connection)


async def connect(order: Order, make: Callable[[], C]) -> C:
    """A connection of the kind that `make` makes. Raises OSError, TimeoutError."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(CONNECT_S):
        _, connection = await loop.create_connection(make, "127.0.0.1", order.port)
    return connection


async def closed(order: Order, found: Found) -> None:
    """`connections` of them, each asking again as soon as it has its answer."""
    request, ended = order.request(), asyncio.Event()
    live = left = order.connections
    asked = 0
    began = time.perf_counter()
    until = began + order.seconds

    def stop() -> None:
        nonlocal until
        until = 0.0

    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop)
    reopened: set[asyncio.Task[None]] = set()

    def turn(connection: Connection, is_kept: bool) -> None:
        nonlocal live, asked
        is_over = asked >= order.total if order.total else time.perf_counter() >= until
        if is_over:
            live -= 1
            connection.transport.close()
            if live == 0:
                ended.set()
        elif is_kept:
            asked += 1
            connection.ask(request)
        else:
            task = asyncio.create_task(start())
            reopened.add(task)
            task.add_done_callback(reopened.discard)

    async def start() -> None:
        turn(await connect(order, lambda: Connection(found, turn)), True)

    await asyncio.gather(*(start() for _ in range(left)))
    await ended.wait()
    found.seconds = time.perf_counter() - began


async def open_loop(order: Order, found: Found) -> None:
    """`rate` requests a second, evenly spaced, whether or not those before have their answers."""
    loop, request = asyncio.get_running_loop(), order.request()
    free: list[Connection] = []
    connecting: set[asyncio.Task[None]] = set()
    pending = 0

    def give_back(connection: Connection, is_kept: bool) -> None:
        nonlocal pending
        pending -= 1
        if is_kept:
            free.append(connection)

    async def ask_on_a_new_one() -> None:
        (await connect(order, lambda: Connection(found, give_back))).ask(request)

    for _ in range(4):
        free.append(await connect(order, lambda: Connection(found, give_back)))
    began = loop.time()
    for number in range(int(order.seconds * order.rate)):
        due = began + number / order.rate
        if (wait := due - loop.time()) > 0:
            await asyncio.sleep(wait)
        pending += 1
        if free:
            free.pop().ask(request)
        else:
            task = asyncio.create_task(ask_on_a_new_one())
            connecting.add(task)
            task.add_done_callback(connecting.discard)
    found.seconds = loop.time() - began
    while pending:
        await asyncio.sleep(0.01)


async def events(order: Order, found: Found) -> None:
    """`connections` streams at once, begun over one interval so that their events do not come in step."""
    ended, live = asyncio.Event(), order.connections

    def over(connection: Connection, _is_kept: bool) -> None:
        nonlocal live
        live -= 1
        connection.transport.close()
        if live == 0:
            ended.set()

    request = order.request()
    all_of_them = [
        await connect(order, lambda: Connection(found, over, is_timed=False)) for _ in range(order.connections)
    ]
    began = time.perf_counter()
    for connection in all_of_them:
        connection.ask(request)
        await asyncio.sleep(1 / order.rate / order.connections)
    await ended.wait()
    found.seconds = time.perf_counter() - began


MODES = {"closed": closed, "open": open_loop, "events": events}


async def _run(order: Order) -> Found:
    found = Found()
    async with asyncio.timeout(order.seconds + 120):
        await MODES[order.mode](order, found)
    return found


def main(argv: list[str]) -> int:
    """Carry out one order."""
    found = uvloop.run(_run(Order(**json.loads(argv[0]))))
    sys.stdout.write(found.as_json() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
