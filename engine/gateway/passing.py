"""Passing a replica's answer on to the client: whole when it is small, else chunk by chunk as it comes.

Nothing is buffered beyond one chunk: the client's pace is the replica's (both sides' flow control apply).
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

from aiohttp import web

from engine.gateway.access.passage import Passage, violation_event
from engine.gateway.access.refusal import refusal
from engine.gateway.access.safety.review import Blocked
from engine.gateway.answers import downstream_lines
from engine.gateway.exchange import Exchange
from engine.gateway.pool import AttemptFailed, Pool, Replica
from engine.gateway.relayed import Relayed
from engine.gateway.stream import StreamWatch, tokens_of
from engine.gateway.wire.answer import Answer
from engine.gateway.wire.errors import TooLarge
from state.words import BadClass

WHOLE_BODY_LIMIT = 1 << 20
"""An answer of known length up to this is read whole before a byte is passed on: until then it can be retried."""

REVIEWED_BODY_LIMIT = 8 << 20
"""The largest answer that is held to be checked as a whole."""
CUT_S = 1.0
"""How long a client may take over the last words of an answer that is cut off."""


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
    request: web.BaseRequest, exchange: Exchange, answer: Answer, pool: Pool, replica: Replica, close: bool
) -> web.StreamResponse:
    """Pass the answer on; `close` ends the client's connection with it.

    Raises AttemptFailed only while no byte has been passed on. A stream that breaks later is recorded in `exchange`.
    """
    length = answer.content_length
    is_whole = answer.has_no_body or (length is not None and length <= WHOLE_BODY_LIMIT)
    admission = exchange.call.admission
    passage = admission.passage if admission is not None and answer.status == 200 else None
    if passage is not None:
        passage.begin(answer.status, answer.content_type, answer.header(b"content-encoding").decode(errors="replace"))
        is_whole = is_whole or passage.must_be_whole(answer.content_type)
    try:
        with pool.guard(replica):
            data = await answer.read(REVIEWED_BODY_LIMIT) if is_whole else await answer.readany()
    except TooLarge as error:
        exchange.outcome, exchange.code = BadClass.CLIENT_ERROR, 400
        return refusal(Blocked("size", "answer", f"{error}, so it cannot be checked"), exchange)
    exchange.code = answer.status
    exchange.outcome = outcome_of(answer.status)
    if exchange.outcome is BadClass.DEADLINE and not exchange.call.is_patient:
        exchange.outcome = BadClass.CLIENT_CANCEL
    if exchange.outcome is BadClass.OK:
        exchange.first_byte()
    if exchange.sample is not None:
        exchange.sample.add(data)
    if is_whole and exchange.outcome is BadClass.OK:
        exchange.tokens_in, exchange.tokens_out = tokens_of(data)
    if is_whole and passage is not None:
        try:
            data = await passage.whole(data)
        except Blocked as blocked:
            exchange.outcome, exchange.code = BadClass.CLIENT_ERROR, 400
            return refusal(blocked, exchange)
    ours = admission.answer_headers if admission is not None else None
    lines = downstream_lines(answer.headers, ours) + exchange.own_lines()
    response = Relayed(answer.status, lines, data if is_whole else None)
    if close:
        response.force_close()
    return response if is_whole else await _stream(request, exchange, answer, pool, replica, response, data, passage)


async def _stream(
    request: web.BaseRequest,
    exchange: Exchange,
    answer: Answer,
    pool: Pool,
    replica: Replica,
    response: Relayed,
    chunk: bytes,
    passage: Passage | None,
) -> Relayed:
    exchange.is_event_stream = answer.content_type == "text/event-stream"
    is_events = exchange.is_event_stream and exchange.outcome is BadClass.OK
    watch = StreamWatch()
    exchange.response = response
    try:
        exchange.is_writing = True
        await response.prepare(request)
        exchange.is_writing = False  # the first piece may be held back: what is waited for then is the replica
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
                chunk = await answer.readany()
            if exchange.sample is not None:
                exchange.sample.add(chunk)
            pool.answered(replica)
        if passage is not None and (chunk := await passage.last()):
            await response.write(chunk)
    except Blocked as blocked:
        exchange.outcome = BadClass.CLIENT_ERROR
        with suppress(ConnectionError):  # the client left in this very moment; there is no one to tell
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
    if exchange.is_event_stream and exchange.is_between_events:
        error = {"error": {"message": message, "type": "upstream_error", "param": None, "code": code}}
        with suppress(ConnectionError, TimeoutError):  # the client left in this very moment, or takes nothing more
            async with asyncio.timeout(CUT_S):
                await response.write(f"data: {json.dumps(error)}\n\n".encode())
    transport.close()
    # Closing waits for the client to take what was sent already, which one that reads nothing never does.
    asyncio.get_running_loop().call_later(CUT_S, transport.abort)
