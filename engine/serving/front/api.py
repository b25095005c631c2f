"""The HTTP side of one model server: its routes, and what every inference request goes through."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from engine.serving.front.answer import CLIENT_CLOSED_REQUEST
from engine.serving.front.desk import Desk
from engine.serving.front.endpoints import ENDPOINTS, Endpoint
from engine.serving.front.errors import ApiError, invalid
from engine.serving.front.fault import FaultInjector
from engine.serving.front.intake import Intake
from engine.serving.front.job_store import JobStore
from engine.serving.front.jobs import Jobs
from engine.serving.front.openapi import document_routes
from engine.serving.front.reading import (
    CLASS_HEADER,
    deadline_s_of,
    queue_class_of,
    read_json,
    request_id_of,
    size_of,
    tenant_of,
    trace_of,
)
from engine.serving.front.status import Status
from engine.serving.logs import log
from engine.serving.loop import EngineLoop
from engine.serving.metrics import ServingMetrics
from engine.serving.settings import ServingSettings
from engine.serving.tracing import Tracer


class Front:
    """The routes, and the parts behind them."""

    def __init__(
        self,
        *,
        service: str,
        release_id: str,
        identity: Mapping[str, object],
        engine: EngineLoop,
        intake: Intake,
        metrics: ServingMetrics,
        jobs_dir: Path | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self._metrics = metrics
        self._injector: FaultInjector | None = None
        self.desk = Desk(
            service=service, release_id=release_id, engine=engine, intake=intake, metrics=metrics, tracer=tracer
        )
        self.jobs = Jobs(self.desk, JobStore(jobs_dir))
        self._status = Status(
            service=service, release_id=release_id, identity=identity, engine=engine, intake=intake, metrics=metrics
        )

    def app(self) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                *(Route(path, self._inference(endpoint), methods=["POST"]) for path, endpoint in ENDPOINTS.items()),
                *self.jobs.routes(self.guarded),
                *self._status.routes(),
                *document_routes(),
            ],
            exception_handlers={404: _no_such_route, 405: _no_such_route, 500: _our_fault},
        )

    async def on_serving(self) -> None:
        """The engine serves: take up the jobs of an earlier process."""
        await self.jobs.recover()

    async def close(self) -> None:
        """Write down what ended, send what spans are left."""
        await self.jobs.close()
        await asyncio.to_thread(self.desk.tracer.close)

    def why_not_ready(self) -> str | None:
        """None when this replica is fit for traffic, else the reason."""
        return self._status.why_not_ready()

    def guarded(self, act: Callable[[Request, str], Any]) -> Callable[[Request], Any]:
        """A route around `act(request, request_id)` that answers what it raises."""

        async def route(request: Request) -> Response:
            request_id = request_id_of(request)
            try:
                response: Response = await act(request, request_id)
                return response
            except ApiError as error:
                if error.rejection is not None:
                    self._metrics.record_rejection(error.rejection)
                    log("rejected", request_id=request_id, route=request.url.path, status=error.status, code=error.code)
                return error.response(request_id)
            except ClientDisconnect:
                return Response(status_code=CLIENT_CLOSED_REQUEST)

        return route

    def _inference(self, endpoint: Endpoint) -> Callable[[Request], Any]:
        async def answer(request: Request, request_id: str) -> Response:
            body = await read_json(request)
            settings = self.desk.card().settings
            call = await self.desk.read_aside(endpoint, body, size_of(request))
            deadline_s = deadline_s_of(request, settings.request_deadline_s)
            queue_class = queue_class_of(request.headers.get(CLASS_HEADER, ""))
            await self._inject(settings)
            answer = self.desk.open(
                endpoint,
                call,
                request_id=request_id,
                deadline_s=deadline_s,
                tenant=tenant_of(request),
                queue_class=queue_class,
                trace=trace_of(request),
            )
            return await answer.respond(request.receive)

        return self.guarded(answer)

    async def _inject(self, settings: ServingSettings) -> None:
        if settings.fault is None:
            return
        if self._injector is None:
            self._injector = FaultInjector(settings.fault)
        injected = self._injector.next()
        await asyncio.sleep(injected.delay_s)
        if injected.fails:
            raise ApiError(
                500,
                "this failure was injected: the release's serving configuration has a fault setting",
                kind="server_error",
                code="injected_fault",
                rejection="injected_fault",
            )


async def _no_such_route(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    what = "takes another method" if status == 405 else "is not served here"
    refusal = invalid(f"{request.method} {request.url.path} {what}", code="not_found", status=status)
    return refusal.response(request.headers.get("x-request-id", "-"))


async def _our_fault(request: Request, error: Exception) -> Response:
    """What nobody expected. uvicorn writes the traceback; the caller gets the id by which it is found."""
    request_id = request_id_of(request)
    log("failed", request_id=request_id, route=request.url.path, reason=f"{type(error).__name__}: {error}")
    failure = ApiError(
        500,
        f"the server failed at this request, which is our fault; its log has it under {request_id}",
        kind="server_error",
        code="internal_error",
    )
    return failure.response(request_id)
