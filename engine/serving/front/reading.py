"""What an HTTP request says besides its body: who asks, how urgently, until when, as part of which trace."""

from __future__ import annotations

import json
import math
import re
import secrets

from starlette.requests import Request

from engine.serving.front.errors import ApiError, invalid
from engine.serving.front.quotas import QueueClass
from engine.serving.front.trace import TraceContext, read_traceparent

MAX_BODY_BYTES = 1 << 20
DEADLINE_HEADER = "x-airboss-deadline-ms"
TENANT_HEADER = "x-airboss-tenant"
CLASS_HEADER = "x-airboss-class"
_REQUEST_ID = re.compile(r"[!-~]{1,128}")


def request_id_of(request: Request) -> str:
    """The caller's `x-request-id` when it can stand in a header and a log, else a new one."""
    given = request.headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else f"req-{secrets.token_hex(8)}"


async def read_json(request: Request) -> object:
    """The body. Raises ApiError when it is no JSON, or too large: at once when its length says so."""
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > MAX_BODY_BYTES:
        raise _too_large()
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > MAX_BODY_BYTES:
            raise _too_large()
    try:
        return json.loads(bytes(content))
    except UnicodeDecodeError as error:
        raise invalid(f"the body is not UTF-8: byte {error.start} cannot stand there", code="invalid_json") from error
    except ValueError as error:
        raise invalid(f"the body is not JSON: {error}", code="invalid_json") from error
    except RecursionError as error:
        raise invalid("the body's JSON is nested too deeply", code="invalid_json") from error


def size_of(request: Request) -> int:
    """Bytes of the body by its length; the most there may be where it comes in chunks of an unknown number."""
    length = request.headers.get("content-length", "")
    return int(length) if length.isdigit() else MAX_BODY_BYTES


def deadline_s_of(request: Request, limit_s: float) -> float:
    """The limit, or the caller's own deadline if that is sooner. Raises ApiError."""
    text = request.headers.get(DEADLINE_HEADER)
    if text is None:
        return limit_s
    try:
        asked_s = float(text) / 1000.0
    except ValueError:
        asked_s = math.nan
    if not asked_s > 0.0:
        raise invalid(f"{DEADLINE_HEADER} must be a number of milliseconds above 0", DEADLINE_HEADER)
    return min(asked_s, limit_s)


def tenant_of(request: Request) -> str:
    """Who the gateway says is asking; "" when it does not."""
    return request.headers.get(TENANT_HEADER, "")[:256]


def queue_class_of(name: str, param: str = CLASS_HEADER) -> QueueClass:
    """The queue class of a name; "" is interactive. Raises ApiError."""
    try:
        return QueueClass(name or QueueClass.INTERACTIVE)
    except ValueError as error:
        raise invalid(f"there is no class {name[:40]!r}; there are {', '.join(QueueClass)}", param) from error


def trace_of(request: Request) -> TraceContext | None:
    """The trace the request belongs to, if it says so."""
    return read_traceparent(request.headers.get("traceparent"), request.headers.get("tracestate", ""))


def _too_large() -> ApiError:
    return invalid(f"the body is larger than {MAX_BODY_BYTES} bytes", code="body_too_large", status=413)
