"""The model server: `python -P -m engine.serving.server SPEC.json`. One replica of one release.

The socket listens before torch is imported, and /ready says why not yet. SIGTERM: /ready says 503 at once, requests
are still taken for `drain_accept_s`, running ones may finish until `drain_deadline_s`, then exit 0.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial

import prometheus_client

from adapters.local.child import ChildSpec, run_child
from engine.serving.backend.release import serving_of
from engine.serving.backend.settings import TORCH, backend_of
from engine.serving.front.api import Front
from engine.serving.front.errors import unavailable
from engine.serving.front.http import listening, quiet_uvicorn, raise_descriptor_limit
from engine.serving.front.intake import Intake
from engine.serving.logs import log
from engine.serving.loop import EngineLoop, LoopState
from engine.serving.metrics import ServingMetrics
from engine.serving.settings import ServingSettings
from engine.serving.startup import leave, prepare, read_payload, seconds_since_spawn, settle_threads
from engine.serving.tracing import make_tracer
from state.words import AirbossError, ExitCode, OperationFailed

DEATH_LINGER_S = 3.0
"""A server whose engine died answers 503 this long, so that the gateway hears it, and then ends to be replaced."""
_STOP_TIMEOUT_S = 5.0
SWITCH_S = 0.0005
"""How long the engine's thread may wait for the front to let the interpreter go: a step has hundreds of operations, and
after each of them it asks for the interpreter back. The default, 5 ms, is as long as a step."""


def main(argv: list[str]) -> int:
    """Be the child that argv[1]'s spec describes; returns the exit code."""
    try:
        code = run_child(argv, body)
    except AirbossError as error:
        hint = f" ({error.hint})" if error.hint else ""
        sys.stderr.write(f"model server: {error.message}{hint}\n")
        code = int(ExitCode.FAILED)
    return leave(code)


def body(spec: ChildSpec) -> int:
    """Serve until told to stop. Raises AirbossError when the release cannot be served, or the engine died."""
    payload = read_payload(spec)
    if backend_of(serving_of(payload.bundle), payload.serving) != TORCH:
        # Not imported by a torch replica: the relay's HTTP client costs time and memory that it has no use for.
        from engine.serving.backend.server import serve_backend

        return serve_backend(spec)
    settle_threads(payload)
    quiet_uvicorn()
    raise_descriptor_limit()
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    return asyncio.run(_serve(spec))


async def _serve(spec: ChildSpec) -> int:
    payload = read_payload(spec)
    serving = {**serving_of(payload.bundle), **payload.serving}
    intake = Intake(asyncio.get_running_loop())
    metrics = ServingMetrics(payload.service or payload.release_id)
    engine = EngineLoop(partial(prepare, payload, spec.digest), metrics, intake)
    intake.attach(engine)
    front = Front(
        service=payload.service,
        release_id=payload.release_id,
        identity=spec.identity(),
        engine=engine,
        intake=intake,
        metrics=metrics,
        jobs_dir=payload.jobs_dir,
        # Before the engine's thread begins: it imports torch, and two imports at once may wait for each other.
        tracer=make_tracer(str(serving.get("otlp_endpoint", "")), payload.service or payload.release_id),
    )
    told_to_stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told_to_stop.set)
    log("starting", release_id=payload.release_id, service=payload.service, env=payload.env, bundle=str(payload.bundle))
    engine.start()
    try:
        async with listening(spec.socket, front.app()):
            await until_told(engine, intake, told_to_stop, front.on_serving)
            await drain(engine, intake)
            await front.close()
    finally:
        has_ended = engine.stop(_STOP_TIMEOUT_S)
        log("stopped", engine_ended=has_ended)
    return int(ExitCode.OK)


async def until_told(
    engine: EngineLoop, intake: Intake, told_to_stop: asyncio.Event, on_serving: Callable[[], Awaitable[None]]
) -> None:
    """Return when the process shall stop; `on_serving` runs once the engine serves. Raises what made the engine end."""
    stop = asyncio.create_task(told_to_stop.wait())
    try:
        while not stop.done():
            changed = asyncio.create_task(intake.changed.wait())
            await asyncio.wait({stop, changed}, return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
            if stop.done():
                return
            intake.changed.clear()
            if engine.status().state is LoopState.SERVING:
                _log_ready(engine)
                await on_serving()
            elif engine.failure is not None:
                await _engine_died(engine)
    finally:
        stop.cancel()


def _log_ready(engine: EngineLoop) -> None:
    card = engine.card
    assert card is not None
    log(
        "ready",
        release_id=card.release_id,
        digest=card.digest,
        device=card.device,
        parameters=card.parameters,
        since_spawn_s=round(seconds_since_spawn(), 2),
    )
    if card.settings.fault is not None:
        log("faults_are_injected", **card.settings.fault.model_dump())


async def _engine_died(engine: EngineLoop) -> None:
    failure = engine.failure
    log("engine_died", reason=engine.status().detail)
    if engine.card is not None:
        await asyncio.sleep(DEATH_LINGER_S)
    if isinstance(failure, AirbossError):
        raise failure
    raise OperationFailed(f"the engine died: {engine.status().detail}", code="engine_died") from failure


async def drain(engine: EngineLoop, intake: Intake) -> None:
    """Leave in order: say so, let the load balancer hear it, let running requests finish, end the rest."""
    settings = engine.card.settings if engine.card is not None else ServingSettings(drain_accept_s=0.0)
    deadline = time.monotonic() + settings.drain_deadline_s
    intake.is_draining = True
    log("draining", in_flight=intake.in_flight)
    await asyncio.sleep(settings.drain_accept_s)
    intake.is_closed = True
    try:
        await asyncio.wait_for(intake.idle.wait(), max(0.01, deadline - time.monotonic()))
    except TimeoutError:
        log("drain_deadline_passed", aborted=intake.in_flight)
        intake.abort_all(
            unavailable("this replica shut down before the answer was complete", "draining", retry_after_s=1)
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv))
