"""Asking a shadow replica: the request as it was, marked, and an answer that goes nowhere."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from engine.gateway.pool import Replica
from engine.gateway.routing.compare import Sample
from engine.gateway.stream import StreamWatch, tokens_of
from engine.gateway.wire.errors import BrokeOff, ConnectFailed, NotHttp

SHADOW_HEADER = "X-Airboss-Shadow"
"""Tells a model server, and all behind it, that no one gets this answer and nothing may come of it."""


class ShadowFailed(Exception):
    """The shadow could not be asked, or broke off."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What a shadow answered."""

    status: int
    sample: Sample
    tokens: int


async def ask_shadow(replica: Replica, path: str, lines: bytes, body: bytes, deadline_s: float) -> Heard:
    """The whole answer to the request with header `lines`. Raises ShadowFailed, and TimeoutError at the deadline."""
    sample, watch = Sample(), StreamWatch()
    try:
        async with asyncio.timeout(deadline_s):
            answer = await replica.wire.post(path, lines, body)
            is_events = answer.content_type == "text/event-stream"
            try:
                while chunk := await answer.readany():
                    sample.add(chunk)
                    if is_events:
                        watch.feed(chunk)
            finally:
                answer.close()
    except (ConnectFailed, BrokeOff, NotHttp) as error:
        raise ShadowFailed(f"{type(error).__name__}: {error}") from error
    tokens = watch.tokens_out if is_events else tokens_of(bytes(sample.head))[1]
    return Heard(answer.status, sample, tokens)
