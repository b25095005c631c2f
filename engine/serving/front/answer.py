"""Answering one admitted request, whole or as a stream, while watching whether anyone still listens."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from engine.serving.front.errors import ApiError, ClientGone
from engine.serving.front.formats import DONE, Envelope, Format, event
from engine.serving.front.intake import Intake, Ticket
from engine.serving.logs import log

CLIENT_CLOSED_REQUEST = 499
"""Logged for a request whose client went away; nobody receives it."""


class Answer:
    """One request from admission to its last byte. Always ends with `end`, which may be called again."""

    def __init__(
        self,
        intake: Intake,
        ticket: Ticket,
        form: Format,
        envelope: Envelope,
        request_id: str,
        route: str,
        receive: Receive,
    ) -> None:
        self._intake = intake
        self._ticket = ticket
        self._format = form
        self._envelope = envelope
        self._request_id = request_id
        self._route = route
        self._is_over = False
        # The disconnect message arrives beside the handler, not through it: whoever waits for tokens must hear of it.
        self._watcher = asyncio.create_task(self._watch(receive))

    async def respond(self) -> Response:
        """The response, once it is known to be one: a stream starts only with its first token.

        Raises ApiError; the caller answers it.
        """
        try:
            if self._ticket.call.stream:
                return _EventStream(self, await self._ticket.next_text())
            text = ""
            while self._ticket.finish is None:
                text += await self._ticket.next_text()
            self.end(200)
            return JSONResponse(
                self._format.whole(self._envelope, text, self._ticket), headers={"x-request-id": self._request_id}
            )
        except ApiError as error:
            self.end(error.status, error.code)
            raise
        except ClientGone:
            self.end(CLIENT_CLOSED_REQUEST, "client_gone")
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        except asyncio.CancelledError:
            self.end(CLIENT_CLOSED_REQUEST, "cancelled")
            raise

    async def stream(self, first: str, write: Callable[[bytes], Awaitable[None]]) -> None:
        """Events from the first text to [DONE]. Raises ApiError or ClientGone when it breaks off."""
        text, is_first = first, True
        while True:
            finish = self._ticket.finish
            # A token may add no text yet (it could begin a stop string): nothing to send then.
            if text or finish or is_first:
                await write(event(self._format.chunk(self._envelope, text, finish, is_first)))
                is_first = False
            if finish is not None:
                break
            text = await self._ticket.next_text()
        if self._ticket.call.include_usage:
            await write(event(self._format.closing(self._envelope, self._ticket)))
        await write(DONE)

    def end(self, status: int, code: str = "") -> None:
        """Release the ticket, stop watching, write the request's log line."""
        if self._is_over:
            return
        self._is_over = True
        self._watcher.cancel()
        self._intake.close(self._ticket)
        ticket, now = self._ticket, time.monotonic()
        log(
            "request",
            request_id=self._request_id,
            route=self._route,
            status=status,
            **({"code": code} if code else {}),
            finish_reason=ticket.finish,
            prompt_tokens=len(ticket.call.tokens),
            completion_tokens=ticket.completion_tokens,
            stream=ticket.call.stream,
            ttft_ms=round((ticket.first_token_at - ticket.arrived_at) * 1000, 1) if ticket.first_token_at else None,
            latency_ms=round((now - ticket.arrived_at) * 1000, 1),
        )

    @property
    def request_id(self) -> str:
        """The id in headers and logs."""
        return self._request_id

    async def _watch(self, receive: Receive) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            while (await receive())["type"] != "http.disconnect":
                continue
            self._ticket.put(ClientGone())


class _EventStream(Response):
    """Server-sent events. One that breaks ends with an error event and an incomplete body, never with [DONE]."""

    media_type = "text/event-stream"

    def __init__(self, answer: Answer, first: str) -> None:
        self._answer = answer
        self._first = first
        self.status_code = 200
        self.background = None
        self.init_headers({"cache-control": "no-cache", "x-request-id": answer.request_id})

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
