"""Giving a kept answer again: whole as one answer, a stream as a stream of the same events."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from engine.gateway.access.cache import Kept
from engine.gateway.access.passage import EVENTS

_EVENT_END = b"\n\n"


async def replay(request: web.BaseRequest, kept: Kept, headers: Mapping[str, str], close: bool) -> web.StreamResponse:
    """Answer with what was kept; `close` ends the client's connection with it."""
    if kept.content_type != EVENTS:
        response = web.Response(body=kept.body, content_type=kept.content_type, headers=headers)
        if close:
            response.force_close()
        return response
    stream = web.StreamResponse(headers={**headers, "Content-Type": EVENTS, "Cache-Control": "no-cache"})
    if close:
        stream.force_close()
    await stream.prepare(request)
    for event in kept.body.split(_EVENT_END):
        if event:
            await stream.write(event + _EVENT_END)
    return stream
