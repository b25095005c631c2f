"""The routes: inference in OpenAI's words, and what the engine and a load balancer ask."""

from __future__ import annotations

import asyncio
import json
import math
import re
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from engine.serving.front.answer import CLIENT_CLOSED_REQUEST, Answer
from engine.serving.front.errors import ApiError, invalid, unavailable
from engine.serving.front.fault import FaultInjector
from engine.serving.front.formats import ChatFormat, CompletionFormat, Envelope, Format, GenerateFormat
from engine.serving.front.intake import Intake
from engine.serving.front.schemas import Call, chat_call, completion_call, generate_call
from engine.serving.logs import log
from engine.serving.loop import EngineLoop, LoopState, ModelCard
from engine.serving.metrics import CONTENT_TYPE, ServingMetrics
from engine.serving.readiness import why_not_ready
from engine.serving.settings import ServingSettings

MAX_BODY_BYTES = 1 << 20
_REQUEST_ID = re.compile(r"[!-~]{1,128}")
_DEADLINE_HEADER = "x-airboss-deadline-ms"
_ReadCall = Callable[[object, ModelCard, frozenset[str]], Call]


class Front:
    """The HTTP side of one model server."""

    def __init__(
        self,
        *,
        service: str,
        release_id: str,
        identity: Mapping[str, object],
        engine: EngineLoop,
        intake: Intake,
        metrics: ServingMetrics,
    ) -> None:
        self._service = service
        self._release_id = release_id
        self._identity = identity
        self._engine = engine
        self._intake = intake
        self._metrics = metrics
        self._served = frozenset(name for name in (service, release_id) if name)
        self._injector: FaultInjector | None = None
        self._started = int(time.time())

    def app(self) -> Starlette:
        """The ASGI application."""
        return Starlette(
            routes=[
                Route(
                    "/v1/completions", self._inference(completion_call, CompletionFormat(), "cmpl"), methods=["POST"]
                ),
                Route("/v1/chat/completions", self._inference(chat_call, ChatFormat(), "chatcmpl"), methods=["POST"]),
                Route("/generate", self._inference(generate_call, GenerateFormat(), "gen"), methods=["POST"]),
                Route("/v1/models", self._models),
                Route("/health", self._health),
                Route("/ready", self._ready),
                Route("/metrics", self._exposition),
                Route("/admin/handshake", self._handshake),
            ],
            exception_handlers={404: _no_such_route, 405: _no_such_route},
        )

    def why_not_ready(self) -> str | None:
        """None when this replica is fit for traffic, else the reason."""
        card = self._engine.card
        stuck_after_s = card.settings.stuck_after_s if card is not None else math.inf
        return why_not_ready(
            self._engine.status(),
            now=time.monotonic(),
            stuck_after_s=stuck_after_s,
            is_draining=self._intake.is_draining,
        )

    def _inference(self, read_call: _ReadCall, form: Format, prefix: str) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            given = request.headers.get("x-request-id", "")
            request_id = given if _REQUEST_ID.fullmatch(given) else f"req-{secrets.token_hex(8)}"
            try:
                return await self._answer(request, request_id, read_call, form, prefix)
            except ApiError as error:
                if error.rejection is not None:
                    self._metrics.record_rejection(error.rejection)
                    log("rejected", request_id=request_id, route=request.url.path, status=error.status, code=error.code)
                return error.response(request_id)
            except ClientDisconnect:
                return Response(status_code=CLIENT_CLOSED_REQUEST)

        return endpoint

    async def _answer(
        self, request: Request, request_id: str, read_call: _ReadCall, form: Format, prefix: str
    ) -> Response:
        value = await _read_json(request)
        card = self._card()
        call = read_call(value, card, self._served)
        deadline_s = _deadline_s(request, card.settings)
        await self._inject(card.settings)
        ticket = self._intake.admit(call, card.settings, deadline_s)
        envelope = Envelope(
            f"{prefix}-{request_id}", int(time.time()), self._service or self._release_id, card.digest[:12]
        )
        answer = Answer(self._intake, ticket, form, envelope, request_id, request.url.path, request.receive)
        return await answer.respond()

    def _card(self) -> ModelCard:
        """The model, when requests can be taken. While draining they still are, until the intake closes."""
        card = self._engine.card
        if card is None:
            detail = self._engine.status().detail
            raise unavailable(
                f"this replica is starting ({detail}); try again shortly",
                "starting",
                retry_after_s=1,
                rejection="starting",
            )
        reason = why_not_ready(
            self._engine.status(), now=time.monotonic(), stuck_after_s=card.settings.stuck_after_s, is_draining=False
        )
        if reason is not None:
            raise unavailable(
                f"{reason}; ask another replica", "engine_unavailable", retry_after_s=1, rejection="engine"
            )
        return card

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

    async def _models(self, request: Request) -> Response:
        card = self._engine.card
        model: dict[str, object] = {
            "id": self._service or self._release_id,
            "object": "model",
            "created": self._started,
            "owned_by": "airboss",
            "root": self._release_id,
        }
        if card is not None:
            model["max_model_len"] = card.context
        return JSONResponse({"object": "list", "data": [model]})

    async def _health(self, request: Request) -> Response:
        """Alive: the process answers, and its engine has not died. A stuck engine is /ready's matter."""
        status = self._engine.status()
        if status.state is LoopState.DEAD:
            return JSONResponse({"status": "dead", "reason": status.detail}, 503)
        return JSONResponse({"status": "alive"})

    async def _ready(self, request: Request) -> Response:
        reason = self.why_not_ready()
        status = self._engine.status()
        body = {
            "ready": reason is None,
            "reason": reason,
            "release_id": self._release_id,
            "running": status.running,
            "waiting": status.waiting,
            "in_flight": self._intake.in_flight,
            "steps": status.steps,
            "tokens_generated": status.tokens_generated,
            "heartbeat_age_s": round(time.monotonic() - status.beat_at, 3),
        }
        return JSONResponse(body, 200 if reason is None else 503)

    async def _exposition(self, request: Request) -> Response:
        return Response(self._metrics.exposition(), headers={"content-type": CONTENT_TYPE})

    async def _handshake(self, request: Request) -> Response:
        card = self._engine.card
        reason = self.why_not_ready()
        facts: dict[str, object] = {
            **self._identity,
            "release_id": self._release_id,
            "service": self._service,
            "ready": reason is None,
            "reason": reason,
            "draining": self._intake.is_draining,
        }
        if card is not None:
            facts |= {
                "device": card.device,
                "parameters": card.parameters,
                "context": card.context,
                "serving": card.settings.model_dump(),
            }
        return JSONResponse(facts)


async def _read_json(request: Request) -> object:
    """The body. Raises ApiError when it is too large or no JSON."""
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > MAX_BODY_BYTES:
            raise invalid(f"the body is larger than {MAX_BODY_BYTES} bytes", code="body_too_large", status=413)
    try:
        return json.loads(bytes(content))
    except ValueError as error:
        raise invalid(f"the body is not JSON: {error}", code="invalid_json") from error


def _deadline_s(request: Request, settings: ServingSettings) -> float:
    """The settings' deadline, or the caller's own if that is sooner."""
    text = request.headers.get(_DEADLINE_HEADER)
    if text is None:
        return settings.request_deadline_s
    try:
        asked_s = float(text) / 1000.0
    except ValueError:
        asked_s = math.nan
    if not asked_s > 0.0:
        raise invalid(f"{_DEADLINE_HEADER} must be a number of milliseconds above 0", _DEADLINE_HEADER)
    return min(asked_s, settings.request_deadline_s)


async def _no_such_route(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    what = "takes another method" if status == 405 else "is not served here"
    refusal = invalid(f"{request.method} {request.url.path} {what}", code="not_found", status=status)
    return refusal.response(request.headers.get("x-request-id", "-"))
