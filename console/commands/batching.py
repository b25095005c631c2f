"""`serve --batch`: a file of requests answered at full speed, by a child that has no server around its engine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from console.commands.model_source import bundle_of
from console.commands.serving import STOP_GRACE_S, start_child
from console.commands.serving_table import serving_table
from console.output import Outcome
from state.words import CHILD_PROTOCOL, ERRORS_BY_EXIT, ExitCode, OperationFailed, UsageError

if TYPE_CHECKING:
    from console.commands.context import Context

MODULE = "engine.serving.batch"


def batch(
    context: Context,
    *,
    model: str,
    batch: Path | None,
    out: Path | None,
    threads: int,
    backend: str | None,
    settings: tuple[str, ...],
    meta: Path | None = None,
) -> Outcome:
    """Answer the batch. Ctrl-C ends it between two answers; the same command goes on from there."""
    if batch is None or out is None:
        raise UsageError("--batch and --out go together", hint="for example --batch in.jsonl --out out.jsonl")
    if backend not in (None, "torch"):
        raise UsageError(
            f"--batch computes on torch, not with {backend}", hint="vLLM has a batch runner of its own: vllm run-batch"
        )
    if not batch.is_file():
        raise UsageError(f"there is no file {batch}", hint="a batch is a file of JSON lines, as OpenAI's batches are")
    bundle, release_id, digest = bundle_of(context, model, meta)
    with tempfile.TemporaryDirectory(prefix="airboss-batch-") as scratch:
        spec = Path(scratch) / "batch.spec.json"
        payload = {
            "bundle": str(bundle),
            "service": release_id,
            "release_id": release_id,
            "threads": threads,
            "serving": serving_table(None, settings, ()),
            "input": str(batch.absolute()),
            "output": str(out.absolute()),
        }
        spec.write_text(
            json.dumps(
                {
                    "spawn_id": "batch",
                    "kind": "batch",
                    "run_dir": scratch,
                    "socket": "",
                    "digest": digest,
                    "payload": payload,
                    "protocol": CHILD_PROTOCOL,
                }
            ),
            encoding="utf-8",
        )
        return Outcome.printed(asyncio.run(_run(spec)))


async def _run(spec: Path) -> ExitCode:
    child = start_child(spec, MODULE)
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, told.set)
    ended = asyncio.create_task(asyncio.to_thread(child.wait))
    stopping = asyncio.create_task(told.wait())
    try:
        await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            child.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(ended), STOP_GRACE_S)
    finally:
        stopping.cancel()
        if child.poll() is None:
            child.kill()
        code = await ended
    if code == 0:
        return ExitCode.OK
    if told.is_set():
        raise OperationFailed("the batch was stopped before its end", hint="the same command goes on from there")
    kind = ERRORS_BY_EXIT.get(code, OperationFailed)
    raise kind(f"the batch ended with {code}", hint="what it wrote above says why")
