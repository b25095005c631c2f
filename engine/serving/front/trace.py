"""W3C trace context: whose trace a request belongs to (https://www.w3.org/TR/trace-context/#traceparent-header)."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_NONE = "0"


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A place in a trace: the caller's, or that of our own span; ids in lower-case hexadecimal."""

    trace_id: str
    parent_id: str
    """The span's id: that of the caller, whose child ours is."""
    is_sampled: bool
    state: str = ""
    """`tracestate`, passed on as it came."""

    def facts(self) -> dict[str, object]:
        """What a log line says of it: the span by which the line is found in the trace."""
        return {"trace_id": self.trace_id, "span_id": self.parent_id}


def read_traceparent(header: str | None, state: str = "") -> TraceContext | None:
    """The context a `traceparent` header gives, or None: one that cannot be read is as none, as the standard says."""
    match = _TRACEPARENT.fullmatch((header or "").strip())
    if match is None:
        return None
    version, trace_id, parent_id, flags, rest = match.groups()
    if version == "ff" or (version == "00" and rest) or not trace_id.strip(_NONE) or not parent_id.strip(_NONE):
        return None
    return TraceContext(trace_id, parent_id, bool(int(flags, 16) & 1), state[:512])
