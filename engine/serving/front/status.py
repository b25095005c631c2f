"""What the engine, a load balancer and a scraper ask: alive, ready, which model, which numbers."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from engine.serving.front.errors import invalid
from engine.serving.front.intake import Intake
from engine.serving.front.reading import request_id_of
from engine.serving.loop import EngineLoop, LoopState
from engine.serving.metrics import CONTENT_TYPE, ServingMetrics
from engine.serving.readiness import why_not_ready


class Status:
    """The routes that only tell."""

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
        self._started = int(time.time())

    def routes(self) -> list[Route]:
        """The routes."""
        return [
            Route("/", self._root),
            Route("/health", self._health),
            Route("/ready", self._ready),
            Route("/metrics", self._exposition),
            Route("/admin/handshake", self._handshake),
            Route("/v1/models", self._models),
            Route("/v1/models/{name:path}", self._one_model),
        ]

    def why_not_ready(self) -> str | None:
        """None when this replica is fit for traffic, else the reason."""
        card = self._engine.card
        return why_not_ready(
            self._engine.status(),
            now=time.monotonic(),
            stuck_after_s=card.settings.stuck_after_s if card is not None else math.inf,
            is_draining=self._intake.is_draining,
        )

    async def _root(self, request: Request) -> Response:
        """The seed server's own health answer, with a status that means it."""
        reason = self.why_not_ready()
        name = self._service or self._release_id
        if reason is None:
            return JSONResponse({"status": "ok", "message": f"{name} is running"})
        return JSONResponse({"status": "unavailable", "message": f"{name}: {reason}"}, 503)

    async def _health(self, request: Request) -> Response:
        """Alive: the process answers, and its engine has not died. A stuck engine is /ready's matter."""
        status = self._engine.status()
        if status.state is LoopState.DEAD:
            return JSONResponse({"status": "unhealthy", "model_loaded": False, "reason": status.detail}, 503)
        is_loaded = self._engine.card is not None
        return JSONResponse({"status": "healthy" if is_loaded else "starting", "model_loaded": is_loaded})

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

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._model(self._service or self._release_id)]})

    async def _one_model(self, request: Request) -> Response:
        name = str(request.path_params["name"])
        if name not in (self._service, self._release_id) or not name:
            refusal = invalid(
                f"there is no model {name[:100]!r} here; this server has {self._service or self._release_id}",
                "model",
                code="model_not_found",
                status=404,
            )
            return refusal.response(request_id_of(request))
        return JSONResponse(self._model(name))

    def _model(self, name: str) -> dict[str, object]:
        card = self._engine.card
        model: dict[str, object] = {
            "id": name,
            "object": "model",
            "created": self._started,
            "owned_by": "airboss",
            "root": self._release_id,
        }
        if card is not None:
            model["max_model_len"] = card.context
        return model

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
