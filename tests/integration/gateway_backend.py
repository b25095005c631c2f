"""A small model server for the gateway's tests: `python gateway_backend.py SOCKET NAME [LOG]`.

It answers as told by the body: `sleep_ms`, `status`, `stream` (n events), `break_after` (die inside the answer).
Every request's arrival is a line in LOG, so that a test can see what reached it and when.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

from aiohttp import web

READY = {"status": 200}


async def ready(request: web.Request) -> web.Response:
    """What the gateway pings."""
    return web.Response(status=READY["status"], text="said so")


async def set_ready(request: web.Request) -> web.Response:
    """Let a test change what `/ready` says."""
    READY["status"] = int(request.match_info["status"])
    return web.Response()


async def complete(request: web.Request) -> web.StreamResponse:
    """Answer a completion."""
    name, log = request.app["name"], request.app["log"]
    if log is not None:
        with log.open("a") as file:
            file.write(f"{time.time()} {request.headers.get('X-Request-Id', '')}\n")
    body = await request.json()
    if body.get("sleep_ms"):
        try:
            await asyncio.sleep(body["sleep_ms"] / 1000)
        except asyncio.CancelledError:
            if log is not None:
                with log.open("a") as file:
                    file.write("cancelled\n")
            raise
    if "stream" not in body:
        answer = {
            "served_by": name,
            "headers": dict(request.headers),
            "path": request.path_qs,
            "echo": "z" * body.get("echo", 0),
            "usage": {"prompt_tokens": 3, "completion_tokens": 5},
        }
        return web.json_response(answer, status=body.get("status", 200), headers={"Keep-Alive": "timeout=5"})
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for number in range(body["stream"]):
        if number == body.get("break_after") and request.transport is not None:
            request.transport.abort()
        await response.write(
            f"data: {json.dumps({'n': number, 'by': name, 'pad': 'x' * body.get('pad', 0)})}\n\n".encode()
        )
        await asyncio.sleep(body.get("every_ms", 10) / 1000)
    await response.write(b"data: [DONE]\n\n")
    return response


async def main() -> None:
    """Serve until killed."""
    app = web.Application(client_max_size=8 << 20)
    app["name"], app["log"] = sys.argv[2], Path(sys.argv[3]) if len(sys.argv) > 3 else None
    app.router.add_get("/ready", ready)
    app.router.add_post("/admin/ready/{status}", set_ready)
    app.router.add_post("/{path:.*}", complete)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    await web.UnixSite(runner, sys.argv[1]).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
