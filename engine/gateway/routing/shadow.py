"""Asking a shadow replica: the request as it was, marked, and an answer that goes nowhere."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from engine.gateway.pool import Replica
from engine.gateway.routing.compare import Sample
from engine.gateway.stream import StreamWatch, tokens_of

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


async def ask_shadow(replica: Replica, path: str, headers: CIMultiDict[str], body: bytes, deadline_s: float) -> Heard:
    """The whole answer. Raises ShadowFailed, and TimeoutError at the deadline."""
    sample, watch = Sample(), StreamWatch()
    try:
        async with (
            asyncio.timeout(deadline_s),
            replica.session.post(
                URL(replica.base_url + path, encoded=True), data=body, headers=headers, allow_redirects=False
            ) as answer,
        ):
            is_events = answer.content_type == "text/event-stream"
            async for chunk in answer.content.iter_any():
                sample.add(chunk)
                if is_events:
                    watch.feed(chunk)
    except (aiohttp.ClientError, OSError) as error:
        if isinstance(error, TimeoutError):
            raise
        raise ShadowFailed(f"{type(error).__name__}: {error}") from error
    tokens = watch.tokens_out if is_events else tokens_of(bytes(sample.head))[1]
    return Heard(answer.status, sample, tokens)
