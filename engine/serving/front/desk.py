"""From a body to a running answer: the path that HTTP requests, jobs and batch lines have in common."""

from __future__ import annotations

import asyncio
import time

from engine.serving.front.answer import Answer
from engine.serving.front.calls import Call
from engine.serving.front.endpoints import Endpoint
from engine.serving.front.errors import unavailable
from engine.serving.front.formats import Envelope
from engine.serving.front.intake import Intake
from engine.serving.front.quotas import QueueClass
from engine.serving.front.trace import TraceContext
from engine.serving.loop import EngineLoop, ModelCard
from engine.serving.metrics import ServingMetrics
from engine.serving.readiness import why_not_ready
from engine.serving.settings import ServingSettings
from engine.serving.tracing import NoTracer, Tracer

_LONG_BODY_BYTES = 16 << 10
"""A body from this size on is read in a thread: some milliseconds of tokenizing."""


class Desk:
    """Where requests are taken, whoever brings them."""

    def __init__(
        self,
        *,
        service: str,
        release_id: str,
        engine: EngineLoop,
        intake: Intake,
        metrics: ServingMetrics,
        tracer: Tracer | None = None,
    ) -> None:
        self.name = service or release_id
        self.intake = intake
        self._engine = engine
        self._metrics = metrics
        metrics.on_finished = intake.on_finished
        self.tracer: Tracer = tracer or NoTracer()
        self._served = frozenset(name for name in (service, release_id) if name)

    def card(self) -> ModelCard:
        """The model, when requests can be taken; else raises ApiError. While draining they still can."""
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

    @property
    def settings(self) -> ServingSettings:
        """The served model's settings; before there is one, the defaults."""
        card = self._engine.card
        return card.settings if card is not None else ServingSettings()

    def read(self, endpoint: Endpoint, body: object) -> Call:
        """What the body asks of the model. Raises ApiError."""
        return endpoint.read(body, self.card(), self._served)

    async def read_aside(self, endpoint: Endpoint, body: object, size: int) -> Call:
        """`read` for the event loop: `size` bytes of JSON that take long to tokenize do not hold it up."""
        if size < _LONG_BODY_BYTES:
            return self.read(endpoint, body)
        return await asyncio.to_thread(self.read, endpoint, body)

    def open(
        self,
        endpoint: Endpoint,
        call: Call,
        *,
        request_id: str,
        deadline_s: float,
        tenant: str = "",
        queue_class: QueueClass = QueueClass.INTERACTIVE,
        trace: TraceContext | None = None,
        is_quiet: bool = False,
    ) -> Answer:
        """Admit a request. Raises ApiError; otherwise the caller must bring the answer to its end.

        A quiet one has no log line.
        """
        card = self.card()
        ticket = self.intake.admit(call, card.settings, deadline_s, tenant=tenant, queue_class=queue_class)
        try:
            self._metrics.record_request(n=call.n, max_tokens=max(sample.params.max_tokens for sample in call.samples))
            envelope = Envelope(
                f"{endpoint.id_prefix}-{request_id}",
                int(time.time()),
                self.name,
                card.digest[:12],
                call,
                card.tokenizer,
            )
            span = self.tracer.begin(endpoint.path, self.name, request_id, ticket, trace)
            return Answer(
                self.intake,
                ticket,
                endpoint.form(envelope),
                request_id,
                endpoint.path,
                span.context or trace,
                span,
                is_quiet,
            )
        except BaseException:
            # Admitted, but nobody is there to bring it to its end.
            self.intake.close(ticket)
            raise
