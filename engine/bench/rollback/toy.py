"""`python -m engine.bench.rollback.toy PORT NAME`: a model server whose answers say who gave them, and when they were asked for.

The moment is the monotonic clock in nanoseconds: one clock for all processes of a host.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from functools import partial
from pathlib import PurePath

import uvloop

from engine.bench.gateway.upstream import Upstream


class Toy(Upstream):
    """A connection of the toy called `name`."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def answer(self) -> bytes:
        """A completion of one token."""
        body = json.dumps({**self._chunk(), "usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}})
        head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
        return (head % (len(body), body)).encode()

    def event(self) -> bytes:
        """One event; the first of a stream leaves when the stream is asked for."""
        return f"data: {json.dumps(self._chunk())}\n\n".encode()

    def _chunk(self) -> dict[str, object]:
        text = f"{self._name} at {time.monotonic_ns()}"
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "text": text, "message": message, "finish_reason": "stop"}
        return {"id": "toy", "object": "text_completion", "model": "chat", "choices": [choice]}


async def _serve(port: int, name: str) -> None:
    server = await asyncio.get_running_loop().create_server(partial(Toy, name), "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), PurePath(sys.argv[2]).name))
