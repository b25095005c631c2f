"""An OpenAI-compatible server that is not ours, with the troubles that foreign servers have. Run as a program.

`python foreign_server.py --port N | --uds PATH [--mode MODE]`. Modes: ok, slow (listens late), deaf (never listens), mute
(accepts, never answers), dead (leaves at once), family (starts a child that would outlive it), stubborn (ignores TERM).
The prompt `die` kills it in the middle of a stream, `stall` makes it stop answering for good, `long` streams on and on.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

METRICS = """# HELP llamacpp:requests_processing Number of requests processing.
# TYPE llamacpp:requests_processing gauge
llamacpp:requests_processing 3
# TYPE llamacpp:requests_deferred gauge
llamacpp:requests_deferred 2
# TYPE llamacpp:kv_cache_usage_ratio gauge
llamacpp:kv_cache_usage_ratio 0.25
# TYPE llamacpp:tokens_predicted_total counter
llamacpp:tokens_predicted_total 41
"""


class World:
    """What the server remembers."""

    stalled = False
    aborted = 0
    seen: dict[str, object] | None = None
    load: Path | None = None


async def completions(request: Request) -> Response:
    body = await request.json()
    prompt = body.get("prompt") or body["messages"][-1]["content"]
    World.seen = {**body, "authorization": request.headers.get("authorization", "")}
    World.stalled = World.stalled or prompt == "stall"
    while World.stalled:
        await asyncio.sleep(0.05)
    if body.get("max_tokens", 0) > 100_000:
        return JSONResponse({"error": {"message": "too long", "type": "BadRequestError", "code": 400}}, 400)
    if not body.get("stream"):
        text = "".join(f" {n}" for n in range(body["max_tokens"]))
        choice = {
            "index": 0,
            "text": text,
            "message": {"role": "assistant", "content": text},
            "finish_reason": "length",
        }
        usage = {"prompt_tokens": 1, "completion_tokens": body["max_tokens"]}
        return JSONResponse({"object": "text_completion", "model": body["model"], "choices": [choice], "usage": usage})

    async def events() -> AsyncIterator[bytes]:
        try:
            for n in range(100_000 if prompt == "long" else body["max_tokens"]):
                yield b"data: " + json.dumps({"choices": [{"index": 0, "text": f" {n}"}]}).encode() + b"\n\n"
                if prompt == "die" and n == 1:
                    os.kill(os.getpid(), signal.SIGKILL)
                await asyncio.sleep(0.01 if prompt == "long" else 0)
            yield b"data: [DONE]\n\n"
        except asyncio.CancelledError:
            World.aborted += 1
            raise

    return StreamingResponse(events(), media_type="text/event-stream")


async def seen(request: Request) -> Response:
    return JSONResponse({"object": "list", "seen": World.seen, "aborted": World.aborted})


async def metrics(request: Request) -> Response:
    if World.load is None:
        return PlainTextResponse(METRICS)
    busy = World.load.read_text()
    return PlainTextResponse(f"# TYPE llamacpp:requests_processing gauge\nllamacpp:requests_processing {busy}\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    parser.add_argument("--uds")
    parser.add_argument("--mode", default="ok")
    parser.add_argument("--pids")
    parser.add_argument("--load", type=Path, help="a file that says how many requests are running")
    parser.add_argument("words", nargs="*")
    options = parser.parse_args()
    print("loading the model", file=sys.stderr)
    if options.mode == "dead":
        print("OSError: no such model: the disk has none", file=sys.stderr)
        for number in range(20):
            print(f" - leaked function {number}", file=sys.stderr)
        sys.exit(3)
    if options.mode == "slow":
        time.sleep(0.7)
    if options.mode == "family":
        child = subprocess.Popen(["sleep", "600"], start_new_session=True)
        with open(options.pids, "w") as file:
            file.write(f"{os.getpid()} {child.pid}")
    if options.mode == "deaf":
        signal.pause()
    app = Starlette(
        routes=[
            Route("/v1/completions", completions, methods=["POST"]),
            Route("/v1/chat/completions", completions, methods=["POST"]),
            Route("/v1/embeddings", seen, methods=["POST"]),
            Route("/metrics", metrics),
            Route("/health", lambda request: PlainTextResponse("OK")),
        ]
    )
    World.stalled, World.load = options.mode == "mute", options.load
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=options.port or 0, uds=options.uds, log_level="warning")
    )
    if options.mode == "stubborn":
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        server.handle_exit = lambda *_: None  # type: ignore[method-assign]
    server.run()


if __name__ == "__main__":
    main()
