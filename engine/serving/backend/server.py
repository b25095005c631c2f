"""A replica whose engine is not ours: one thin front per foreign server, with the torch server's outside.

The same spawn rules, socket, routes, exit record and signals; behind it vLLM or any command with OpenAI's API.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import prometheus_client
import uvloop
from aiohttp import web

from adapters.local import private_socket
from adapters.local.child import ChildSpec
from engine.serving.backend.foreign import Foreign
from engine.serving.backend.launch import Launch, Places, free_port, plan_launch, refuse_what_cannot_start
from engine.serving.backend.metrics import FrontMetrics
from engine.serving.backend.probe import Prober
from engine.serving.backend.pulse import Pulse
from engine.serving.backend.relay import MAX_BODY_BYTES, Relay
from engine.serving.backend.release import serving_of, verify_release
from engine.serving.backend.settings import Settings, backend_settings
from engine.serving.front.errors import invalid
from engine.serving.front.fault import refuse_unless_allowed
from engine.serving.logs import log
from engine.serving.metrics import CONTENT_TYPE
from engine.serving.startup import ServerPayload, read_payload, seconds_since_spawn
from state.words import ExitCode, OperationFailed

DEATH_LINGER_S = 3.0
"""A front whose server died answers 503 this long, so that the gateway hears it, and then ends to be replaced."""
_SCRAPE_TIMEOUT_S = 2.0
_ABORT_S = 5.0
"""What cut answers may take to say so, once the drain's deadline has passed."""
_KEEP_ALIVE_S = 300


def serve_backend(spec: ChildSpec) -> int:
    """Serve until told to stop. Raises AirbossError when the backend cannot be started, or died."""
    payload = read_payload(spec)
    settings = backend_settings(serving_of(payload.bundle), payload.serving)
    refuse_unless_allowed(settings.fault, payload.allow_faults, payload.release_id)
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    return int(uvloop.run(_serve(spec, payload, settings)))


async def _serve(spec: ChildSpec, payload: ServerPayload, settings: Settings) -> ExitCode:
    name = payload.service or payload.release_id
    model_name = settings.model_name or name
    places = Places(
        port=free_port(),
        metrics_port=free_port(),
        socket=f"{spec.socket}.b",
        model=settings.model or str(payload.bundle),
        model_name=model_name,
        api_key=secrets.token_urlsafe(24),
    )
    launch = plan_launch(settings, places)
    told_to_stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told_to_stop.set)
    pulse, metrics = Pulse(), FrontMetrics(name, settings.metrics_profile)
    foreign = Foreign(launch, settings.stop_grace_s)
    async with _session(launch) as session:
        relay = Relay(
            settings, launch, session, pulse, metrics,
            served=frozenset(n for n in (payload.service, payload.release_id) if n), model_name=model_name,
        )  # fmt: skip
        front = _Front(spec, payload, settings, launch, session, pulse, metrics, relay)
        async with _listening(spec.socket, front.app()):
            log("starting", backend=settings.backend, release_id=payload.release_id, service=payload.service,
                command=list(launch.argv))  # fmt: skip
            try:
                pulse.detail = "verifying the release's files"
                await _unless_told(asyncio.to_thread(_prepare, payload, spec, settings), told_to_stop)
                if not told_to_stop.is_set():
                    pulse.detail = "starting the backend"
                    foreign.start()
                    prober = Prober(settings, launch, session, pulse, model_name)
                    await _until_told(prober, foreign, pulse, told_to_stop, payload)
                await _drain(settings, pulse, relay)
            finally:
                await foreign.stop()
                Path(places.socket).unlink(missing_ok=True)
                log("stopped")
    return ExitCode.OK


def _prepare(payload: ServerPayload, spec: ChildSpec, settings: Settings) -> None:
    verify_release(payload.bundle, spec.digest)
    refuse_what_cannot_start(settings)


async def _unless_told(work: Any, told: asyncio.Event) -> None:
    """Await `work`, or return when told to stop. What cannot be cancelled (a thread) ends by itself."""
    task, stop = asyncio.ensure_future(work), asyncio.create_task(told.wait())
    try:
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        task.cancel()
    finally:
        stop.cancel()


async def _until_told(
    prober: Prober, foreign: Foreign, pulse: Pulse, told: asyncio.Event, payload: ServerPayload
) -> None:
    """Return when the process shall stop. Raises what ended the backend."""

    async def live() -> None:
        await prober.until_ready(foreign)
        if not foreign.ended.is_set():
            log("ready", release_id=payload.release_id, since_spawn_s=round(seconds_since_spawn(), 2))
            await prober.keep()

    living = asyncio.create_task(live())
    ending = asyncio.create_task(foreign.ended.wait())
    stop = asyncio.create_task(told.wait())
    try:
        await asyncio.wait({living, ending, stop}, return_when=asyncio.FIRST_COMPLETED)
        if stop.done():
            return
        if living.done() and not ending.done():
            living.result()
            await foreign.ended.wait()
        pulse.end = foreign.how_it_ended()
        log("backend_died", reason=pulse.end)
        if pulse.has_answered:
            await asyncio.wait({stop}, timeout=DEATH_LINGER_S)
        raise OperationFailed(
            f"the backend {pulse.end}", hint="its lines in this replica's log say more", code="backend_died"
        )
    finally:
        for task in (living, ending, stop):
            task.cancel()
        await asyncio.gather(living, ending, stop, return_exceptions=True)


async def _drain(settings: Settings, pulse: Pulse, relay: Relay) -> None:
    """Leave in order: say so, let the load balancer hear it, let running requests finish, cut the rest."""
    accept_s = settings.drain_accept_s if pulse.has_answered else 0.0
    deadline = time.monotonic() + settings.drain_deadline_s
    pulse.is_draining = True
    log("draining", in_flight=relay.in_flight)
    await asyncio.sleep(accept_s)
    pulse.is_closed = True
    try:
        await asyncio.wait_for(relay.idle.wait(), max(0.01, deadline - time.monotonic()))
    except TimeoutError:
        log("drain_deadline_passed", aborted=relay.in_flight)
        relay.abort_all()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(relay.idle.wait(), _ABORT_S)


def _session(launch: Launch) -> aiohttp.ClientSession:
    """The connections to the foreign server: no limit of their own, admission has one."""
    connector: aiohttp.BaseConnector = (
        aiohttp.UnixConnector(launch.uds, limit=0) if launch.uds else aiohttp.TCPConnector(limit=0)
    )
    headers = {"Authorization": f"Bearer {launch.api_key}"} if launch.api_key else {}
    return aiohttp.ClientSession(
        connector=connector, headers=headers, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
    )


class _Front:
    """The routes."""

    def __init__(
        self, spec: ChildSpec, payload: ServerPayload, settings: Settings, launch: Launch,
        session: aiohttp.ClientSession, pulse: Pulse, metrics: FrontMetrics, relay: Relay,
    ) -> None:  # fmt: skip
        self._spec = spec
        self._payload = payload
        self._settings = settings
        self._launch = launch
        self._session = session
        self._pulse = pulse
        self._metrics = metrics
        self._relay = relay
        self._started = int(time.time())

    def app(self) -> web.Application:
        """The application."""
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        for route in ("/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/generate"):
            app.router.add_post(route, self._relay.answer)
        for route, answer in (
            ("/v1/models", self._models),
            ("/health", self._health),
            ("/ready", self._ready),
            ("/metrics", self._exposition),
            ("/admin/handshake", self._handshake),
        ):
            app.router.add_get(route, answer)
        app.router.add_route("*", "/{rest:.*}", _no_such_route)
        return app

    def _why_not_ready(self) -> str | None:
        silent_s = self._settings.probe_every_s + self._settings.stuck_after_s
        return self._pulse.why_not_ready(now=time.monotonic(), stuck_after_s=silent_s)

    async def _models(self, request: web.Request) -> web.Response:
        model = {
            "id": self._payload.service or self._payload.release_id,
            "object": "model",
            "created": self._started,
            "owned_by": "airboss",
            "root": self._payload.release_id,
        }
        return web.json_response({"object": "list", "data": [model]})

    async def _health(self, request: web.Request) -> web.Response:
        if self._pulse.end:
            return web.json_response({"status": "dead", "reason": self._pulse.end}, status=503)
        return web.json_response({"status": "alive"})

    async def _ready(self, request: web.Request) -> web.Response:
        reason = self._why_not_ready()
        body = {
            "ready": reason is None,
            "reason": reason,
            "release_id": self._payload.release_id,
            "in_flight": self._relay.in_flight,
            "answer_age_s": round(time.monotonic() - self._pulse.proof_at, 3) if self._pulse.has_answered else None,
        }
        return web.json_response(body, status=200 if reason is None else 503)

    async def _exposition(self, request: web.Request) -> web.Response:
        foreign = ""
        if self._settings.metrics_profile != "none" and self._pulse.has_answered and not self._pulse.end:
            try:
                async with self._session.get(
                    self._launch.metrics_url, timeout=aiohttp.ClientTimeout(total=_SCRAPE_TIMEOUT_S)
                ) as answer:
                    answer.raise_for_status()
                    foreign = await answer.text()
            except (aiohttp.ClientError, TimeoutError, OSError, UnicodeDecodeError):
                self._metrics.scrape_failed()
        return web.Response(body=self._metrics.exposition(foreign), headers={"content-type": CONTENT_TYPE})

    async def _handshake(self, request: web.Request) -> web.Response:
        reason = self._why_not_ready()
        shown = self._settings.model_dump()
        # What is in an environment may be a secret; its names are enough to tell what is in effect.
        shown["env"] = sorted(shown["env"])
        facts = {
            **self._spec.identity(),
            "release_id": self._payload.release_id,
            "service": self._payload.service,
            "ready": reason is None,
            "reason": reason,
            "draining": self._pulse.is_draining,
            "serving": shown,
        }
        return web.json_response(facts)


async def _no_such_route(request: web.Request) -> web.Response:
    refusal = invalid(f"{request.method} {request.path} is not served here", code="not_found", status=404)
    return web.json_response(
        refusal.body(), status=404, headers={"x-request-id": request.headers.get("x-request-id", "-")}
    )


@contextlib.asynccontextmanager
async def _listening(path: str, app: web.Application) -> AsyncIterator[None]:
    """Serve `app` on a Unix socket that only this user may open, for as long as the block runs."""
    listener = private_socket.bind(path)
    runner = web.AppRunner(
        app, handler_cancellation=True, access_log=None, keepalive_timeout=_KEEP_ALIVE_S, shutdown_timeout=2.0
    )
    await runner.setup()
    await web.SockSite(runner, listener).start()
    try:
        yield
    finally:
        await runner.cleanup()
        Path(path).unlink(missing_ok=True)
