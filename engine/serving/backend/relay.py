"""Passing requests on to the foreign server, and its answers back: whole or streamed, at the client's pace.

Nothing is buffered beyond a chunk. A client that leaves, and a deadline that passes, close the connection to the server:
that is how OpenAI-compatible servers hear that an answer is no longer wanted.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import secrets
import time
from dataclasses import dataclass

import aiohttp
from aiohttp import web

from engine.serving.backend.launch import Launch
from engine.serving.backend.metrics import FrontMetrics
from engine.serving.backend.pulse import Pulse
from engine.serving.backend.rewrite import Call, generated, rewrite
from engine.serving.backend.settings import ForeignSettings
from engine.serving.front.errors import ApiError, invalid, unavailable
from engine.serving.front.fault import FaultInjector
from engine.serving.logs import log

MAX_BODY_BYTES = 1 << 20
_REQUEST_ID = re.compile(r"[!-~]{1,128}")
_DEADLINE_HEADER = "x-airboss-deadline-ms"
_CONNECT_S = 5.0
_TELL_S = 1.0
_ABORTED = 499
_PASSED_UP = ("traceparent", "tracestate", "accept")
_PASSED_DOWN = ("Content-Type", "Retry-After", "Cache-Control")


@dataclass(slots=True)
class _Record:
    """What a request's log line will say."""

    request_id: str
    route: str
    began: float
    is_stream: bool = False
    status: int = 0
    code: str = ""
    first_s: float | None = None
    is_passed_on: bool = False


class Relay:
    """The inference routes of a foreign backend's front."""

    def __init__(
        self,
        settings: ForeignSettings,
        launch: Launch,
        session: aiohttp.ClientSession,
        pulse: Pulse,
        metrics: FrontMetrics,
        *,
        served: frozenset[str],
        model_name: str,
    ) -> None:
        self._settings = settings
        self._launch = launch
        self._session = session
        self._pulse = pulse
        self._metrics = metrics
        self._served = served
        self._model_name = model_name
        self._injector = FaultInjector(settings.fault) if settings.fault is not None else None
        self.in_flight = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self._answers: set[asyncio.Task[object]] = set()
        self._aborts: set[asyncio.Task[object]] = set()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer one inference request."""
        given = request.headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else f"req-{secrets.token_hex(8)}"
        record = _Record(request_id, request.path, time.monotonic())
        self.in_flight += 1
        self.idle.clear()
        try:
            response = await self._answer(request, record)
            record.status = record.status or response.status
            return response
        except ApiError as error:
            record.status, record.code = error.status, error.code
            if error.rejection is not None:
                self._metrics.rejected(error.rejection)
            return _refusal(error, request_id)
        except asyncio.CancelledError:
            record.status, record.code = _ABORTED, "client_gone"
            raise
        finally:
            self.in_flight -= 1
            if not self.in_flight:
                self.idle.set()
            self._write_down(record)

    def abort_all(self) -> None:
        """End every answer: the drain's deadline has passed."""
        for task in tuple(self._answers):
            self._aborts.add(task)
            task.cancel()

    async def _answer(self, request: web.Request, record: _Record) -> web.StreamResponse:
        try:
            content = await request.read()
        except web.HTTPRequestEntityTooLarge as error:
            raise invalid(
                f"the body is larger than {MAX_BODY_BYTES} bytes", code="body_too_large", status=413
            ) from error
        call = rewrite(
            request.path, content, self._served, self._model_name, has_only_chat=self._settings.probe == "chat"
        )
        record.is_stream = call.is_stream
        deadline_s = self._deadline_s(request)
        self._admit()
        await self._inject()
        task = asyncio.current_task()
        assert task is not None
        self._answers.add(task)
        record.is_passed_on = True
        self._metrics.began()
        response: list[web.StreamResponse] = []
        try:
            async with asyncio.timeout(deadline_s):
                return await self._pass_on(request, record, call, response)
        except TimeoutError:
            late = ApiError(
                504,
                f"the answer was not complete within {deadline_s:g} s; ask for fewer tokens, or try again later",
                kind="timeout_error",
                code="deadline_exceeded",
            )
            return await self._broke(request, record, response, late)
        except (aiohttp.ClientError, OSError) as error:
            said = unavailable(
                f"the backend of this replica broke off ({type(error).__name__}); ask another",
                "backend_unavailable",
                retry_after_s=1,
            )
            return await self._broke(request, record, response, said)
        except asyncio.CancelledError:
            if task not in self._aborts:
                raise
            said = unavailable("this replica shut down before the answer was complete", "draining", retry_after_s=1)
            task.uncancel()
            return await self._broke(request, record, response, said)
        finally:
            self._answers.discard(task)
            self._aborts.discard(task)

    async def _pass_on(
        self, request: web.Request, record: _Record, call: Call, response: list[web.StreamResponse]
    ) -> web.StreamResponse:
        headers = {name: request.headers[name] for name in _PASSED_UP if name in request.headers}
        headers |= {"content-type": "application/json", "x-request-id": record.request_id}
        async with self._session.post(
            self._launch.base + call.route, data=call.body, headers=headers,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),
        ) as upstream:  # fmt: skip
            record.status = upstream.status
            down = {name: upstream.headers[name] for name in _PASSED_DOWN if name in upstream.headers}
            down["x-request-id"] = record.request_id
            if upstream.content_type != "text/event-stream":
                body = await upstream.read()
                if upstream.status == 200:
                    self._pulse.prove(time.monotonic())
                    body = generated(body) if call.is_generate else body
                return web.Response(status=upstream.status, body=body, headers=down)
            stream = web.StreamResponse(status=upstream.status, headers=down)
            async for chunk in upstream.content.iter_any():
                if record.first_s is None:
                    record.first_s = time.monotonic() - record.began
                    await stream.prepare(request)
                    response.append(stream)
                self._pulse.prove(time.monotonic())
                try:
                    await stream.write(chunk)
                except ConnectionError:
                    record.status, record.code = _ABORTED, "client_gone"
                    return stream
            if not response:
                await stream.prepare(request)
            return stream

    async def _broke(
        self, request: web.Request, record: _Record, response: list[web.StreamResponse], error: ApiError
    ) -> web.StreamResponse:
        """An answer that did not come whole: an error when none of it was sent, else an error event and a cut connection."""
        record.status, record.code = error.status, error.code
        if not response:
            return _refusal(error, record.request_id)
        transport = request.transport
        try:
            async with asyncio.timeout(_TELL_S):
                await response[0].write(b"data: " + json.dumps(error.body()).encode() + b"\n\n")
        except (ConnectionError, TimeoutError):
            # A client that does not read cannot be told, and must not hold its place.
            if transport is not None:
                transport.abort()
            return response[0]
        if transport is not None:
            # Without the last chunk, so that a proxy cannot take it for whole.
            transport.close()
        return response[0]

    def _admit(self) -> None:
        if self._pulse.is_closed:
            raise unavailable(
                "this replica is shutting down; ask another", "draining", retry_after_s=1, rejection="draining"
            )
        reason = self._pulse.why_not_serving(
            now=time.monotonic(), stuck_after_s=self._settings.probe_every_s + self._settings.stuck_after_s
        )
        if reason is not None:
            starting = not self._pulse.has_answered and not self._pulse.end
            raise unavailable(
                f"{reason}; ask another replica", "starting" if starting else "engine_unavailable", retry_after_s=1,
                rejection="starting" if starting else "engine",
            )  # fmt: skip
        if len(self._answers) >= self._settings.max_inflight:
            raise unavailable(
                f"{self._settings.max_inflight} requests are here already; try again shortly", "queue_full",
                retry_after_s=1, rejection="queue_full",
            )  # fmt: skip

    async def _inject(self) -> None:
        if self._injector is None:
            return
        injected = self._injector.next()
        await asyncio.sleep(injected.delay_s)
        if injected.fails:
            raise ApiError(
                500, "this failure was injected: the serving configuration has a fault setting", kind="server_error",
                code="injected_fault", rejection="injected_fault",
            )  # fmt: skip

    def _deadline_s(self, request: web.Request) -> float:
        text = request.headers.get(_DEADLINE_HEADER)
        if text is None:
            return self._settings.request_deadline_s
        try:
            asked_s = float(text) / 1000.0
        except ValueError:
            asked_s = math.nan
        if not asked_s > 0.0:
            raise invalid(f"{_DEADLINE_HEADER} must be a number of milliseconds above 0", _DEADLINE_HEADER)
        return min(asked_s, self._settings.request_deadline_s)

    def _write_down(self, record: _Record) -> None:
        took_s = time.monotonic() - record.began
        if record.is_passed_on:
            how = (
                "abort" if record.status == _ABORTED else "stop" if record.status < 400 and not record.code else "error"
            )
            self._metrics.finished(how, first_s=record.first_s, e2e_s=took_s)
        log(
            "request" if record.is_passed_on else "rejected",
            request_id=record.request_id,
            route=record.route,
            status=record.status,
            **({"code": record.code} if record.code else {}),
            stream=record.is_stream,
            ttft_ms=None if record.first_s is None else round(record.first_s * 1000, 1),
            latency_ms=round(took_s * 1000, 1),
        )


def _refusal(error: ApiError, request_id: str) -> web.Response:
    headers = {"x-request-id": request_id}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    return web.json_response(error.body(), status=error.status, headers=headers)
