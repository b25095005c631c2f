"""Passing a replica's answer on to the client: whole when it is small, else chunk by chunk as it comes.

Nothing is buffered beyond one chunk: the client's pace is the replica's (both sides' flow control apply).
"""

from __future__ import annotations

import json
from contextlib import suppress

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from engine.gateway.access.passage import Passage, violation_event
from engine.gateway.access.refusal import refusal
from engine.gateway.access.safety.review import Blocked
from engine.gateway.answers import downstream_headers
from engine.gateway.exchange import Exchange
from engine.gateway.pool import AttemptFailed, Pool, Replica
from engine.gateway.stream import StreamWatch, tokens_of
from state.words import BadClass

WHOLE_BODY_LIMIT = 1 << 20
"""An answer of known length up to this is read whole before a byte is passed on: until then it can be retried."""


def outcome_of(status: int) -> BadClass:
    """The class of a replica's complete answer."""
    if status == 429:
        return BadClass.QUOTA
    if status == 504:
        return BadClass.DEADLINE
    if status >= 500:
        return BadClass.SERVER_ERROR
    return BadClass.CLIENT_ERROR if status >= 400 else BadClass.OK


async def pass_on(
    request: web.BaseRequest,
    exchange: Exchange,
    upstream: aiohttp.ClientResponse,
    pool: Pool,
    replica: Replica,
    close: bool,
) -> web.StreamResponse:
    """Pass the answer on; `close` ends the client's connection with it.

    Raises AttemptFailed only while no byte has been passed on. A stream that breaks later is recorded in `exchange`.
    """
    length = upstream.content_length
    is_whole = length is not None and length <= WHOLE_BODY_LIMIT
    admission = exchange.call.admission
    passage = admission.passage if admission is not None and upstream.status == 200 else None
    if passage is not None:
        passage.begin(upstream.status, upstream.content_type, upstream.headers.get("Content-Encoding", ""))
        is_whole = is_whole or passage.must_be_whole(upstream.content_type)
    with pool.guard(replica):
        data = await upstream.read() if is_whole else await upstream.content.readany()
    exchange.code = upstream.status
    exchange.outcome = outcome_of(upstream.status)
    if exchange.outcome is BadClass.DEADLINE and not exchange.call.is_patient:
        exchange.outcome = BadClass.CLIENT_CANCEL
    if exchange.outcome is BadClass.OK:
        exchange.first_byte()
    headers = downstream_headers(upstream.headers)
    headers.update(exchange.own_headers())
    headers.extend(exchange.call.answer_headers)
    if exchange.sample is not None:
        exchange.sample.add(data)
    if not is_whole:
        return await _stream(request, exchange, upstream, pool, replica, headers, data, close, passage)
    if exchange.outcome is BadClass.OK:
        exchange.tokens_in, exchange.tokens_out = tokens_of(data)
    if passage is not None:
        try:
            data = await passage.whole(data)
        except Blocked as blocked:
            exchange.outcome, exchange.code = BadClass.CLIENT_ERROR, 400
            return refusal(blocked, exchange)
    headers.popall("Content-Length", None)
    response = web.Response(status=upstream.status, reason=upstream.reason, body=data, headers=headers)
    if close:
        response.force_close()
    return response


async def _stream(
    request: web.BaseRequest,
    exchange: Exchange,
    upstream: aiohttp.ClientResponse,
    pool: Pool,
    replica: Replica,
    headers: CIMultiDict[str],
    chunk: bytes,
    close: bool,
    passage: Passage | None,
) -> web.StreamResponse:
    is_events = upstream.content_type == "text/event-stream" and exchange.outcome is BadClass.OK
    watch = StreamWatch()
    response = exchange.response = web.StreamResponse(status=upstream.status, reason=upstream.reason, headers=headers)
    if close:
        response.force_close()
    try:
        exchange.is_writing = True
        await response.prepare(request)
        while chunk:
            if is_events:
                watch.feed(chunk)
                exchange.tokens_in, exchange.tokens_out = watch.tokens_in, watch.tokens_out
            if passage is not None:
                chunk = await passage.chunk(chunk)
            if chunk:
                exchange.is_writing = True
                await response.write(chunk)
                exchange.is_writing = False
                exchange.is_between_events = chunk.endswith(b"\n\n")
            with pool.guard(replica):
                chunk = await upstream.content.readany()
            if exchange.sample is not None:
                exchange.sample.add(chunk)
            pool.answered(replica)
        if passage is not None and (chunk := await passage.last()):
            await response.write(chunk)
    except Blocked as blocked:
        exchange.outcome = BadClass.CLIENT_ERROR
        await response.write(violation_event(str(blocked)))
        return response
    except AttemptFailed as error:
        exchange.outcome = BadClass.STREAM_BROKEN
        await cut(request, exchange, "stream_broken", f"the replica broke off its answer ({error}); ask again")
        return response
    except ConnectionError:
        exchange.outcome = BadClass.CLIENT_CANCEL
        return response
    if is_events and (watch.has_error or (exchange.call.is_openai and not watch.is_done)):
        exchange.outcome = BadClass.STREAM_BROKEN
    return response


async def cut(request: web.BaseRequest, exchange: Exchange, code: str, message: str) -> None:
    """End a begun answer so that no client takes it for a whole one: an error event if one fits, no last chunk."""
    response, transport = exchange.response, request.transport
    if response is None or transport is None:
        return
    if exchange.is_writing:
        transport.abort()
        return
    if response.content_type == "text/event-stream" and exchange.is_between_events:
        error = {"error": {"message": message, "type": "upstream_error", "param": None, "code": code}}
        with suppress(ConnectionError):  # the client left in this very moment; there is no one to tell
            await response.write(f"data: {json.dumps(error)}\n\n".encode())
    transport.close()
