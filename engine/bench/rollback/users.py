"""`python -m engine.bench.rollback.users PORT STREAM_EVERY`: users who ask all the time, and write down who answered and when.

So many requests a second arrive by themselves, whatever the answers do; every so many-th is a stream of half a second, so
that a switch always finds some in flight (STREAM_EVERY 0: none is). A line says that they are being answered; SIGINT ends it, and prints the rest.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import uvloop

from engine.bench.gateway.load import Connection, Found, Order, connect

RATE = 200.0
STREAM_S, EVENTS_PER_S = 0.5, 20.0
READY = "answered"
READY_AFTER = 20
_MARK = re.compile(rb'"(\w+) at (\d+)')


@dataclass(slots=True)
class Seen:
    """What users saw: for each answer its release and when that was asked; and what went wrong."""

    marks: list[tuple[str, int]] = field(default_factory=list)
    took: list[tuple[int, float]] = field(default_factory=list)
    """When each whole answer was asked for, and the milliseconds it took."""
    streams: int = 0
    broken: int = 0
    """Streams that ended without their proper end."""
    failed: int = 0
    errors: dict[str, int] = field(default_factory=dict)

    def last_ms(self, release: str, since_ns: int) -> float:
        """Milliseconds from `since_ns` to the last request that reached `release`; 0 when none did after it."""
        return max([0.0, *((at - since_ns) / 1e6 for name, at in self.marks if name == release)])


class User(Connection):
    """One connection; its first mark is what counts of an answer."""

    def __init__(self, users: Users) -> None:
        super().__init__(users.found, users.answered)
        self.users = users
        self.is_stream = False
        self.is_marked = False
        self.is_done = False

    def say(self, request: bytes, is_stream: bool) -> None:
        """Ask for an answer, or for a stream."""
        self.is_stream, self.is_marked, self.is_done = is_stream, False, False
        self.ask(request)

    def on_body(self, body: bytes) -> None:
        """Note who answers."""
        if not self.is_marked and (mark := _MARK.search(body)):
            self.is_marked = True
            self.users.seen.marks.append((mark.group(1).decode(), int(mark.group(2))))
        self.is_done = self.is_done or b"[DONE]" in body


class Users:
    """All of them."""

    def __init__(self, port: int, stream_every: int) -> None:
        self.order = Order("open", port)
        self.stream_every = stream_every
        self.found, self.seen = Found(), Seen()
        self._stopped = asyncio.Event()
        self._free: list[User] = []
        self._pending = 0
        self._connecting: set[asyncio.Task[None]] = set()

    def stop(self) -> None:
        """Ask no more."""
        self._stopped.set()

    def answered(self, connection: Connection, is_kept: bool) -> None:
        """An answer is whole, or will not come any more."""
        assert isinstance(connection, User)
        self._pending -= 1
        if connection.is_stream:
            self.seen.streams += 1
            self.seen.broken += not connection.is_done
        else:
            self.seen.took.append((int(connection.asked_at * 1e9), (time.perf_counter() - connection.asked_at) * 1000))
        if is_kept:
            self._free.append(connection)

    async def run(self) -> Seen:
        """Ask until stopped."""
        loop = asyncio.get_running_loop()
        whole, stream = self._request(False), self._request(True)
        began, number, is_said = loop.time(), 0, False
        while not self._stopped.is_set():
            due = began + number / RATE
            if (wait := due - loop.time()) > 0:
                await asyncio.sleep(wait)
            number += 1
            is_stream = self.stream_every > 0 and number % self.stream_every == 0
            self._ask(stream if is_stream else whole, is_stream)
            if not is_said and len(self.seen.marks) >= READY_AFTER:
                is_said = True
                sys.stdout.write(READY + "\n")
                sys.stdout.flush()
        while self._pending:
            await asyncio.sleep(0.01)
        self.seen.failed, self.seen.errors = self.found.failed, dict(self.found.errors)
        return self.seen

    def _request(self, is_stream: bool) -> bytes:
        more: dict[str, Any] = {"stream": True, "events": int(STREAM_S * EVENTS_PER_S), "rate": EVENTS_PER_S}
        return self.order.request(more if is_stream else {})

    def _ask(self, request: bytes, is_stream: bool) -> None:
        self._pending += 1
        while self._free:
            user = self._free.pop()
            if not user.transport.is_closing():
                user.say(request, is_stream)
                return
        task = asyncio.create_task(self._ask_on_a_new_one(request, is_stream))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _ask_on_a_new_one(self, request: bytes, is_stream: bool) -> None:
        try:
            user = await connect(self.order, lambda: User(self))
        except (OSError, TimeoutError) as error:
            self._pending -= 1
            self.found.failed += 1
            self.found.errors[type(error).__name__] += 1
            return
        user.say(request, is_stream)


async def _run(port: int, stream_every: int) -> Seen:
    users = Users(port, stream_every)
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, users.stop)
    return await users.run()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(uvloop.run(_run(int(sys.argv[1]), int(sys.argv[2]))))) + "\n")
