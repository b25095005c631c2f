"""Answering one admitted request, whole or as a stream, while watching whether anyone still listens."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from engine.serving.front.errors import ApiError, ClientGone
from engine.serving.front.formats import DONE, Form, Result, Usage, best, event
from engine.serving.front.intake import Intake
from engine.serving.front.ticket import Piece, Ticket
from engine.serving.front.trace import TraceContext
from engine.serving.logs import log
from engine.serving.tracing import RequestSpan

CLIENT_CLOSED_REQUEST = 499
"""Logged for a request whose client went away; nobody receives it."""


class Answer:
    """One request from admission to its last byte. Always ends with `end`, which may be called again."""

    def __init__(
        self,
        intake: Intake,
        ticket: Ticket,
        form: Form,
        request_id: str,
        route: str,
        trace: TraceContext | None,
        span: RequestSpan,
        is_quiet: bool = False,
    ) -> None:
        self._intake = intake
        self._ticket = ticket
        self._form = form
        self._request_id = request_id
        self._route = route
        self._trace = trace
        self._span = span
        self._is_quiet = is_quiet
        self._is_over = False
        self._watcher: asyncio.Task[None] | None = None

    async def respond(self, receive: Receive) -> Response:
        """The response to an HTTP client, once it is known to be one: a stream starts only with its first token.

        Raises ApiError; the caller answers it.
        """
        # The disconnect message arrives beside the handler, not through it: whoever waits for tokens must hear of it.
        self._watcher = asyncio.create_task(self._watch(receive))
        try:
            if self._ticket.call.stream:
                first = await self._pieces()
                return _EventStream(self, first)
            return JSONResponse(await self.whole(), headers=self.headers)
        except ClientGone:
            return Response(status_code=CLIENT_CLOSED_REQUEST)

    async def whole(self) -> dict[str, Any]:
        """The body of the complete answer. Raises ApiError or ClientGone."""
        results = [Result(at) for at in range(len(self._ticket.call.samples))]
        while any(result.finish is None for result in results):
            for piece in await self._pieces():
                results[piece.index].add(piece)
        self.end(200)
        return self._form.whole(best(results, self._ticket.call), self.usage())

    async def stream(self, pieces: list[Piece], write: Callable[[bytes], Awaitable[None]]) -> None:
        """Events from the first texts to [DONE]. Raises ApiError or ClientGone when it breaks off."""
        begun: set[int] = set()
        while True:
            for piece in pieces:
                # A token may add no text yet (it could begin a stop string): nothing to send then.
                if piece.text or piece.finish or piece.logprobs or piece.index not in begun:
                    begun.add(piece.index)
                    await write(event(self._form.chunk(piece)))
            if self._ticket.is_done:
                break
            pieces = await self._ticket.pieces()
        closing = self._form.closing(self.usage())
        if closing is not None:
            await write(event(closing))
        await write(DONE)

    def end(self, status: int, code: str = "") -> None:
        """Release the ticket, stop watching, write the request's log line, end its span."""
        if self._is_over:
            return
        self._is_over = True
        if self._watcher is not None:
            self._watcher.cancel()
        self._intake.close(self._ticket)
        self._span.end(status, code)
        if not self._is_quiet:
            self._write_line(status, code)

    def _write_line(self, status: int, code: str) -> None:
        ticket, now = self._ticket, time.monotonic()
        log(
            "request",
            request_id=self._request_id,
            **(self._trace.facts() if self._trace else {}),
            route=self._route,
            status=status,
            **({"code": code} if code else {}),
            **({"class": ticket.queue_class} if ticket.queue_class.priority else {}),
            finish_reason=ticket.finish,
            prompt_tokens=ticket.call.prompt_tokens,
            completion_tokens=ticket.completion_tokens,
            **({"generations": len(ticket.numbers)} if len(ticket.numbers) > 1 else {}),
            stream=ticket.call.stream,
            ttft_ms=round((ticket.first_token_at - ticket.arrived_at) * 1000, 1) if ticket.first_token_at else None,
            latency_ms=round((now - ticket.arrived_at) * 1000, 1),
        )

    @property
    def headers(self) -> dict[str, str]:
        """What every response says of the request."""
        return {"x-request-id": self._request_id}

    def usage(self) -> Usage:
        """Tokens so far."""
        ticket = self._ticket
        # Several answers to one prompt find it in the cache; counted is a prompt once.
        cached = min(ticket.call.prompt_tokens, ticket.cached_tokens // ticket.call.best_of)
        return Usage(ticket.call.prompt_tokens, ticket.completion_tokens, cached)

    async def _pieces(self) -> list[Piece]:
        """The ticket's, ending the answer when it ends badly. Raises what it raises."""
        try:
            return await self._ticket.pieces()
        except ApiError as error:
            self.end(error.status, error.code)
            raise
        except ClientGone:
            self.end(CLIENT_CLOSED_REQUEST, "client_gone")
            raise
        except asyncio.CancelledError:
            self.end(CLIENT_CLOSED_REQUEST, "cancelled")
            raise

    async def _watch(self, receive: Receive) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            while (await receive())["type"] != "http.disconnect":
                continue
            self._ticket.put(ClientGone())


class _EventStream(Response):
    """Server-sent events. One that breaks ends with an error event and an incomplete body, never with [DONE]."""

    media_type = "text/event-stream"

    def __init__(self, answer: Answer, first: list[Piece]) -> None:
        self._answer = answer
        self._first = first
        self.status_code = 200
        self.background = None
        self.init_headers({"cache-control": "no-cache", **answer.headers})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream. The answer listens on `receive` already."""

        async def write(content: bytes) -> None:
            await send({"type": "http.response.body", "body": content, "more_body": True})

        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await self._answer.stream(self._first, write)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            self._answer.end(200)
        except ApiError as error:
            self._answer.end(error.status, error.code)
            # Returning without the last chunk makes the server cut the connection: a proxy cannot take it for whole.
            await write(event(error.body()))
        except ClientGone:
            self._answer.end(CLIENT_CLOSED_REQUEST, "client_gone")
        finally:
            self._answer.end(CLIENT_CLOSED_REQUEST, "cancelled")
