"""`python -m engine.bench.gateway.upstream PORT`: the cheapest model server there is. It answers, and does nothing else.

A body with `"stream": true` gets `"events"` server-sent events, `"rate"` a second; each carries the monotonic clock at
which it left (nanoseconds; one clock for all processes of a host), so that whoever receives it knows how long it took.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import cast

import uvloop

BODY = json.dumps(
    {
        "object": "text_completion",
        "model": "bench",
        "choices": [
            {
                "index": 0,
                "text": "x" * 200,
                "message": {"role": "assistant", "content": "x" * 200},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 5, "completion_tokens": 20, "total_tokens": 25},
    }
).encode()
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
_STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Upstream(asyncio.Protocol):
    """One connection: a request, its answer, the next one."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._seen = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        """Answer when the request is whole."""
        seen = self._seen = self._seen + data if self._seen else data
        head, end, body = seen.partition(b"\r\n\r\n")
        if not end:
            return
        if head.startswith(b"GET"):
            self._seen = b""
            self.transport.write(ANSWER)
            return
        fields = head.lower()
        at = fields.find(b"content-length:")
        if at < 0:
            if b"chunked" in fields and not body.endswith(b"0\r\n\r\n"):
                return
        elif len(body) < int(fields[at + 15 :].split(b"\r\n", 1)[0]):
            return
        self._seen = b""
        asked = json.loads(body) if b'"stream":' in body else {}
        if asked.get("stream"):
            self._stream(int(asked["events"]), 1 / float(asked["rate"]))
        else:
            self.transport.write(self.answer())

    def answer(self) -> bytes:
        """What a request gets."""
        return ANSWER

    def event(self) -> bytes:
        """One event of a stream."""
        return b'data: {"at":%d,"choices":[{"text":" word"}]}\n\n' % time.monotonic_ns()

    def _stream(self, events: int, every_s: float) -> None:
        self.transport.write(_STREAM)
        loop = asyncio.get_running_loop()
        due = loop.time()

        def event(left: int) -> None:
            nonlocal due
            if self.transport.is_closing():
                return
            if left == 0:
                self.transport.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
                return
            text = self.event()
            self.transport.write(b"%x\r\n%s\r\n" % (len(text), text))
            due += every_s
            loop.call_at(due, event, left - 1)

        event(events)


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
