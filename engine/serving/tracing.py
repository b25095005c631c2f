"""Where spans of requests go. Without a collector: nowhere, at no cost. OpenTelemetry is imported only for one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

from engine.serving.front.trace import TraceContext

if TYPE_CHECKING:
    from engine.serving.front.ticket import Ticket

_ENVIRONMENT = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


class RequestSpan(Protocol):
    """The span of one request."""

    @property
    def context(self) -> TraceContext | None:
        """The span's own place in its trace; None when nothing records it."""
        ...

    def end(self, status: int, code: str) -> None:
        """The request is over: an HTTP status, and the error's code if it was one."""
        ...


class Tracer(Protocol):
    """Begins spans. Neither beginning nor ending one may block."""

    def begin(
        self, route: str, model: str, request_id: str, ticket: Ticket, parent: TraceContext | None
    ) -> RequestSpan:
        """The span of an admitted request."""
        ...

    def close(self) -> None:
        """Send what is left, for at most two seconds."""
        ...


class NoTracer:
    """Records nothing."""

    def begin(
        self, route: str, model: str, request_id: str, ticket: Ticket, parent: TraceContext | None
    ) -> RequestSpan:
        """See Tracer."""
        return _NO_SPAN

    def close(self) -> None:
        """See Tracer."""


class _NoSpan:
    @property
    def context(self) -> TraceContext | None:
        """See RequestSpan."""
        return None

    def end(self, status: int, code: str) -> None:
        """See RequestSpan."""


_NO_SPAN = _NoSpan()


def collector(setting: str) -> str:
    """The URL spans are posted to: of the settings, else of OpenTelemetry's environment variables; "" for none."""
    if setting:
        return setting if setting.endswith("/v1/traces") else setting.rstrip("/") + "/v1/traces"
    traces, base = (os.environ.get(name, "") for name in _ENVIRONMENT)
    return traces or (base.rstrip("/") + "/v1/traces" if base else "")


def make_tracer(setting: str, service: str) -> Tracer:
    """The tracer that the settings and the environment ask for. Importing OpenTelemetry takes a moment: call it first."""
    url = collector(setting)
    if not url:
        return NoTracer()
    from engine.serving.otlp import OtlpTracer

    return OtlpTracer(url, service)
