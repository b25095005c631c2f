"""Offline batches: `python -P -m engine.serving.batch SPEC.json`. OpenAI's batch file in, the answers' file out.

The engine runs without any server around it, and is given as many requests as keep its batch full. Every answer is a
line that is written whole; what was interrupted is asked again by the next run, which skips what is there already.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import prometheus_client
from pydantic import ValidationError

from adapters.local.child import ChildSpec, run_child
from engine.serving.batch_file import BatchLine, Outbox, finished_before, lines_of
from engine.serving.front.answer import Answer
from engine.serving.front.calls import Call
from engine.serving.front.desk import Desk
from engine.serving.front.endpoints import ENDPOINTS, Endpoint
from engine.serving.front.errors import ApiError, invalid
from engine.serving.front.intake import Intake
from engine.serving.loop import EngineLoop, LoopState
from engine.serving.metrics import ServingMetrics
from engine.serving.startup import ServerPayload, leave, prepare, read_payload, settle_threads
from state.words import AirbossError, ExitCode, OperationFailed, UsageError

_PROGRESS_EVERY_S = 2.0
_STOP_TIMEOUT_S = 5.0
_DEADLINE_S = 24 * 3600.0
"""As long as OpenAI's own batches may take; a batch has nobody who waits."""
_NOT_THE_LINES_FAULT = ("engine_dead", "engine_unavailable", "draining")


class BatchPayload(ServerPayload):
    """The payload of a batch's spec."""

    input: Path
    """Requests, one a line."""
    output: Path
    """Where answers are appended."""


def main(argv: list[str]) -> int:
    """Be the child that argv[1]'s spec describes; returns the exit code."""
    try:
        code = run_child(argv, body)
    except AirbossError as error:
        hint = f" ({error.hint})" if error.hint else ""
        sys.stderr.write(f"batch: {error.message}{hint}\n")
        code = int(error.exit)
    return leave(code)


def body(spec: ChildSpec) -> int:
    """Answer the batch, or as much of it as there is time for. Raises AirbossError."""
    payload = _payload(spec)
    settle_threads(payload)
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    return asyncio.run(_run(payload, spec.digest))


def _payload(spec: ChildSpec) -> BatchPayload:
    read_payload(spec)
    try:
        return BatchPayload.model_validate(spec.payload)
    except ValidationError as error:
        raise UsageError(f"the spec of batch {spec.spawn_id} names no input or output") from error


async def _run(payload: BatchPayload, digest: str) -> int:
    done = finished_before(payload.output)
    lines = [line for line in lines_of(payload.input) if line.key not in done]
    progress = Progress(len(lines), len(done))
    if not lines:
        progress.say("nothing is left to do")
        return int(ExitCode.OK)
    intake = Intake(asyncio.get_running_loop())
    metrics = ServingMetrics(payload.service or payload.release_id)
    engine = EngineLoop(partial(prepare, payload, digest), metrics, intake)
    intake.attach(engine)
    desk = Desk(service=payload.service, release_id=payload.release_id, engine=engine, intake=intake, metrics=metrics)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    engine.start()
    try:
        await _loaded(engine, intake, stop)
        with Outbox(payload.output) as outbox:
            await Batch(desk, outbox, progress, stop).answer(lines)
    finally:
        engine.stop(_STOP_TIMEOUT_S)
    if stop.is_set():
        progress.say("stopped; the same command goes on from here")
        return int(ExitCode.FAILED)
    progress.say("done")
    return int(ExitCode.OK)


async def _loaded(engine: EngineLoop, intake: Intake, stop: asyncio.Event) -> None:
    """Return once the engine serves, or when told to stop. Raises what kept it from that."""
    stopping = asyncio.create_task(stop.wait())
    while engine.status().state is LoopState.STARTING and not stop.is_set():
        changed = asyncio.create_task(intake.changed.wait())
        await asyncio.wait({changed, stopping}, return_when=asyncio.FIRST_COMPLETED)
        changed.cancel()
        intake.changed.clear()
    stopping.cancel()
    if isinstance(engine.failure, AirbossError):
        raise engine.failure
    if engine.failure is not None:
        raise OperationFailed(f"the engine died: {engine.status().detail}") from engine.failure


class Batch:
    """One run over the lines that are left."""

    def __init__(self, desk: Desk, outbox: Outbox, progress: Progress, stop: asyncio.Event) -> None:
        self._desk = desk
        self._outbox = outbox
        self._progress = progress
        self._stop = stop
        self._broken: ApiError | None = None
        self._room = asyncio.Event()
        desk.intake.on_room = self._room.set

    async def answer(self, lines: list[BatchLine]) -> None:
        """Answer them all, or until told to stop. Raises OperationFailed when the engine or the disk gives up."""
        waiting = iter(lines)
        # Two batches' worth: while one computes, those that end are replaced without a step in between.
        width = 2 * self._desk.settings.max_batch
        workers = [asyncio.create_task(self._work(waiting)) for _ in range(min(width, len(lines)))]
        watch = asyncio.create_task(self._watch(workers))
        try:
            await asyncio.gather(*workers)
        except asyncio.CancelledError:
            if not self._stop.is_set():
                raise
        finally:
            for task in (*workers, watch):
                task.cancel()
        if self._broken is not None:
            raise OperationFailed(
                f"the batch cannot go on: {self._broken.message}", hint="the same command goes on from here"
            )

    async def _work(self, waiting: Any) -> None:
        for line in waiting:
            if self._stop.is_set() or self._broken is not None:
                return
            record, tokens = await self._one(line)
            if record is not None:
                self._outbox.write(record)
                self._progress.count(
                    tokens, is_failed=record["response"] is None or record["response"]["status_code"] != 200
                )

    async def _one(self, line: BatchLine) -> tuple[dict[str, Any] | None, int]:
        """A line's record and the tokens of its answer. No record: it was not the line's fault, and is asked again."""
        if line.problem:
            return line.refused(), 0
        try:
            endpoint = ENDPOINTS.get(line.url)
            if endpoint is None or line.method != "POST":
                raise invalid(
                    f"{line.method} {line.url[:80]} is not served here; there are {', '.join(ENDPOINTS)}", "url"
                )
            call = self._desk.read(endpoint, line.body)
            if call.stream:
                raise invalid("a batch's answers are whole: leave stream out", "stream")
            answer = await self._open(endpoint, replace(call, user=""), line.key)
            try:
                whole = await answer.whole()
            finally:
                answer.end(499, "cancelled")
            return line.answered(200, whole), answer.usage().completion
        except ApiError as error:
            if error.code in _NOT_THE_LINES_FAULT:
                self._broken = error
                return None, 0
            return line.answered(error.status, error.body()), 0

    async def _open(self, endpoint: Endpoint, call: Call, request_id: str) -> Answer:
        """Admit the request as soon as there is room for all its generations. Raises ApiError."""
        while True:
            self._room.clear()
            try:
                return self._desk.open(endpoint, call, request_id=request_id, deadline_s=_DEADLINE_S, is_quiet=True)
            except ApiError as error:
                if error.code != "queue_full":
                    raise
            await self._room.wait()

    async def _watch(self, workers: list[asyncio.Task[None]]) -> None:
        """Tell how far it is, and end the workers when told to stop."""
        while not self._stop.is_set():
            try:
                await asyncio.wait_for(self._stop.wait(), _PROGRESS_EVERY_S)
            except TimeoutError:
                self._progress.say()
        for worker in workers:
            worker.cancel()


class Progress:
    """How far the batch is, in lines on stderr."""

    def __init__(self, total: int, before: int) -> None:
        self._total = total
        self._before = before
        self._done = self._failed = self._tokens = 0
        self._since = time.monotonic()

    def count(self, tokens: int, *, is_failed: bool) -> None:
        """One more is written."""
        if not self._done:
            self._since = time.monotonic()
        self._done += 1
        self._failed += is_failed
        self._tokens += tokens

    def say(self, what: str = "") -> None:
        """Write a line."""
        elapsed = max(1e-3, time.monotonic() - self._since)
        before = f", {self._before} were there before" if self._before else ""
        rate = f", {self._tokens / elapsed:.0f} tokens/s" if self._tokens else ""
        end = f": {what}" if what else ""
        sys.stderr.write(f"batch: {self._done} of {self._total} answered, {self._failed} failed{before}{rate}{end}\n")
        sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv))
