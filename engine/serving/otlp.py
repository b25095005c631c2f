"""Spans of requests, sent to an OpenTelemetry collector over HTTP, with the GenAI conventions' attribute names.

The SDK batches in a thread of its own behind a bounded queue: a slow or absent collector costs spans, never requests.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from engine.serving.front.trace import TraceContext
from engine.serving.tracing import RequestSpan

if TYPE_CHECKING:
    from engine.serving.front.ticket import Ticket

_EXPORT_TIMEOUT_S = 5
_CLOSE_TIMEOUT_MS = 2000
_OPERATIONS = {"/v1/chat/completions": "chat"}


class OtlpTracer:
    """Sends spans to the collector at `url`."""

    def __init__(self, url: str, service: str) -> None:
        # The SDK tells of a collector that does not answer with a traceback for every batch; one line is enough.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": service or "airboss", "service.namespace": "airboss"}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(
                OTLPSpanExporter(endpoint=url, timeout=_EXPORT_TIMEOUT_S),
                schedule_delay_millis=1000,
                max_queue_size=2048,
            )
        )
        self._tracer = self._provider.get_tracer("airboss.serving")

    def begin(
        self, route: str, model: str, request_id: str, ticket: Ticket, parent: TraceContext | None
    ) -> RequestSpan:
        """See Tracer."""
        operation = _OPERATIONS.get(route, "text_completion")
        params = ticket.call.samples[0].params
        span = self._tracer.start_span(
            f"{operation} {model}",
            context=set_span_in_context(NonRecordingSpan(_remote(parent))) if parent else None,
            kind=SpanKind.SERVER,
            start_time=_wall_ns(ticket.arrived_at),
            attributes={
                "http.route": route,
                "airboss.request_id": request_id,
                "airboss.queue_class": ticket.queue_class.value,
                "gen_ai.operation.name": operation,
                "gen_ai.provider.name": "airboss",
                "gen_ai.request.model": model,
                "gen_ai.request.max_tokens": params.max_tokens,
                "gen_ai.request.temperature": params.temperature,
                "gen_ai.request.top_p": params.top_p,
                "gen_ai.request.top_k": float(params.top_k),
                "gen_ai.request.choice.count": ticket.call.n,
                **({"gen_ai.request.seed": params.seed} if params.seed is not None else {}),
            },
        )
        return _OtlpSpan(span, ticket)

    def close(self) -> None:
        """See Tracer."""
        self._provider.force_flush(_CLOSE_TIMEOUT_MS)
        self._provider.shutdown()


class _OtlpSpan:
    """A span under way."""

    def __init__(self, span: Span, ticket: Ticket) -> None:
        self._span = span
        self._ticket = ticket

    @property
    def context(self) -> TraceContext | None:
        """See RequestSpan."""
        own = self._span.get_span_context()
        return TraceContext(format(own.trace_id, "032x"), format(own.span_id, "016x"), own.trace_flags.sampled)

    def end(self, status: int, code: str) -> None:
        """See RequestSpan. The events are the moments at which the request moved on."""
        ticket, span = self._ticket, self._span
        if not span.is_recording():
            return
        span.add_event("queue", timestamp=_wall_ns(ticket.arrived_at))
        if ticket.scheduled_at:
            span.add_event("prefill", timestamp=_wall_ns(ticket.scheduled_at))
            span.set_attribute("gen_ai.latency.time_in_queue", ticket.scheduled_at - ticket.arrived_at)
        if ticket.first_token_at:
            span.add_event("decode", timestamp=_wall_ns(ticket.first_token_at))
            span.set_attribute("gen_ai.latency.time_to_first_token", ticket.first_token_at - ticket.arrived_at)
        span.set_attribute("http.response.status_code", status)
        span.set_attribute("gen_ai.usage.input_tokens", ticket.call.prompt_tokens)
        span.set_attribute("gen_ai.usage.output_tokens", ticket.completion_tokens)
        span.set_attribute("gen_ai.response.finish_reasons", ticket.finish_reasons)
        if code:
            span.set_attribute("error.type", code)
        if status >= 500:
            span.set_status(Status(StatusCode.ERROR, code))
        span.end()


def _remote(parent: TraceContext) -> SpanContext:
    return SpanContext(
        int(parent.trace_id, 16),
        int(parent.parent_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED if parent.is_sampled else TraceFlags.DEFAULT),
        trace_state=TraceState.from_header([parent.state]) if parent.state else None,
    )


def _wall_ns(monotonic_s: float) -> int:
    """A moment of the monotonic clock, on the wall clock of now."""
    return time.time_ns() - int((time.monotonic() - monotonic_s) * 1e9)
