"""The public door: from an HTTP request to a routed call, or to a clear answer why not."""

from __future__ import annotations

import asyncio
import random
import time

from aiohttp import web

from adapters.ports import Route
from engine.gateway.access.desk import Desk
from engine.gateway.access.identity import Identity
from engine.gateway.access.prompt import asked_in
from engine.gateway.answers import Refused, client_id, error_answer, json_answer, upstream_lines, without
from engine.gateway.exchange import Call, Exchange
from engine.gateway.feedback import Feedback, read_feedback, redacted
from engine.gateway.jobs import METHODS, ask_around, inner_body, is_jobs, refuse_list_without_tenant, refuse_unchecked
from engine.gateway.proxy import Proxy
from engine.gateway.routing.limits import deadline_of
from engine.gateway.routing.load import CLASS_HEADER, class_of
from engine.gateway.routing.shadow import SHADOW_HEADER
from engine.gateway.routing.tracks import needs_cookies
from engine.gateway.routing.traffic import Asking
from engine.gateway.table import RoutingTable
from state.words import BadClass, Track

ENV_HEADER = "X-Airboss-Env"
_SHADOW_SAYS = (
    f"{SHADOW_HEADER} marks work on a copy of a request that somebody else was answered: nothing may come of it, "
    "no feedback and no request of a tool"
)
PROBE_HEADER = "X-Airboss-Probe"
_NO_COOKIES: dict[str, str] = {}


class Front:
    """Handles every request on the public port. `table` is replaced whole; a request keeps the one it met."""

    def __init__(self, proxy: Proxy, feedback: Feedback, desk: Desk) -> None:
        self.table: RoutingTable | None = None
        self.proxy = proxy
        self.feedback = feedback
        self.desk = desk
        self.limits = desk.config.requests

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        try:
            response = await self._answer(request)
        except Refused as refused:
            self.proxy.recorder.rejected(refused.reason)
            response = refused.answer
            if not request.content.is_eof():  # its body is not read on: the connection cannot be used again
                response.force_close()
        if self.proxy.is_draining and not response.prepared:
            response.force_close()
        return response

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.rel_url.raw_path  # as sent: a decoded one must not be put into another request's line
        if path == "/healthz":
            return self._healthz()
        if SHADOW_HEADER in request.headers:
            raise Refused("shadow", error_answer(403, "invalid_request", "shadow", _SHADOW_SAYS))
        identity = self.desk.identify(request.headers)
        if path == "/feedback":
            return await self._take_feedback(request, identity)
        env, service, rest = split_path(path)
        if rest == "/v1/models" and request.method == "GET":
            return self._models(request, env, identity)
        if ".." in (request.path if "%" in path else path) or not (rest.startswith("/v1/") or rest == "/generate"):
            message = (
                f"there is nothing at {path[:200]}; this gateway serves /v1/…, /generate and /{{env}}/{{service}}/v1/…"
            )
            raise Refused("unknown_path", error_answer(404, "not_found", "unknown_path", message))
        is_job = is_jobs(rest)
        if is_job and request.method in METHODS:
            return await self._ask_for_jobs(request, identity, env, service, rest)
        if request.method != "POST":
            message = f"{rest[:200]} takes POST, not {request.method}"
            raise Refused(
                "bad_method", error_answer(405, "invalid_request", "bad_method", message, headers={"Allow": "POST"})
            )
        body = await self._body(request)
        at, started = time.time(), time.perf_counter()  # a slow upload is the client's time, not the service's
        call = self._route(request, identity, env, service, rest, body)
        exchange = Exchange.admit(call, at, started)
        if is_job:
            refuse_unchecked(call.route)
        elif (policy := call.route.access) is not None and not call.shed:
            try:
                answer = await self.desk.before(request, exchange, policy, self.proxy.is_draining)
            except BaseException as error:
                left = isinstance(error, ConnectionError | asyncio.CancelledError)
                exchange.outcome = BadClass.CLIENT_CANCEL if left else BadClass.SERVER_ERROR
                self.proxy.recorder.ended(exchange)
                raise
            if answer is not None:
                if exchange.outcome is BadClass.CLIENT_ERROR:
                    self.proxy.recorder.rejected("content_policy")
                self.proxy.recorder.ended(exchange)
                return answer
        return await self.proxy.relay(request, exchange)

    def _route(
        self, request: web.BaseRequest, identity: Identity | None, env: str, service: str, rest: str, body: bytes
    ) -> Call:
        table = self._table()
        headers = request.headers
        env = env or headers.get(ENV_HEADER) or table.default_env
        services = table.services(env)
        if not services:
            message = f"no environment {env!r} here; there is {', '.join(table.envs()) or 'none yet'}"
            raise Refused("unknown_env", error_answer(404, "not_found", "unknown_env", message, param=ENV_HEADER))
        sent = inner_body(body) if is_jobs(rest) else body
        asked = asked_in(sent)
        model = asked.get("model") or ""
        service = service or model or (services[0] if len(services) == 1 else "")
        route = table.route(service, env)
        if route is None:
            said = f"no service {service!r}" if service else "the body names no model, and several services are"
            message = f"{said} in {env}; there is {', '.join(services)}"
            status = 404 if service else 400
            raise Refused(
                "unknown_service", error_answer(status, "not_found", "unknown_service", message, param="model")
            )
        peer = request.remote or ""
        caller = identity.name if identity else client_id(headers, peer)
        asking = Asking(
            asked=route,
            headers=headers,
            cookies=request.cookies if needs_cookies(route) else _NO_COOKIES,
            client_id=caller,
            request_class=class_of(headers.get(CLASS_HEADER, ""), identity.request_class if identity else ""),
            body=body,
            chance=random.random() * 100,
            is_tls=request.secure,
        )
        self._within_limits(route, body)
        deadline_s = self._deadline(request, route)
        admission = self.desk.admit(identity, route, peer, asked, len(sent))
        withheld, added = self.desk.upstream(identity, asking.request_class)
        place = self.proxy.traffic.place(table, asking)
        query = request.rel_url.raw_query_string
        return Call(
            table=table,
            route=place.route,
            chosen=place.chosen,
            path=f"{rest}?{query}" if query else rest,
            lines=upstream_lines(request.raw_headers, peer, withheld) + added,
            body=place.body,
            client_id=caller,
            deadline_s=min(deadline_s, place.route.deadline_s),
            asking=asking,
            answer_headers=place.answer_headers,
            shed=f"shed_{asking.request_class}" if place.is_shed else "",
            is_openai=rest.startswith("/v1/"),
            is_probe=headers.get(PROBE_HEADER) == "1" and _may_probe(request, identity),
            admission=admission,
        )

    async def _ask_for_jobs(
        self, request: web.BaseRequest, identity: Identity | None, env: str, service: str, rest: str
    ) -> web.Response:
        """Find, list or cancel jobs. These are no requests to a model: they count for no release."""
        refuse_list_without_tenant(rest, identity)
        table = self._table()
        env = env or request.headers.get(ENV_HEADER) or table.default_env
        routes = [
            route
            for route in table.routes
            if route.env == env and (not service or route.service == service)
            if identity is None or identity.may_use(route.service)
        ]
        withheld, added = self.desk.upstream(identity, "")
        lines = without(upstream_lines(request.raw_headers, request.remote or "", withheld), b"accept-encoding") + added
        return await ask_around(self.proxy.pool, routes, request.method, rest, lines)

    def _within_limits(self, route: Route, body: bytes) -> None:
        limit = route.routing.max_body_bytes if route.routing is not None else 0
        if limit and len(body) > limit:
            message = f"the body is larger than the {limit} bytes that {route.service} takes"
            raise Refused("body_too_large", error_answer(413, "invalid_request", "body_too_large", message))

    def _deadline(self, request: web.BaseRequest, route: Route) -> float:
        try:
            return deadline_of(request.headers, route.deadline_s)
        except ValueError as error:
            raise Refused("bad_timeout", error_answer(400, "invalid_request", "bad_timeout", str(error))) from None

    def _table(self) -> RoutingTable:
        if self.table is None:
            message = "this gateway has no routing table yet; try again in 1 s"
            answer = error_answer(503, "service_unavailable", "no_table", message, headers={"Retry-After": "1"})
            raise Refused("no_table", answer)
        return self.table

    async def _body(self, request: web.BaseRequest) -> bytes:
        limits = self.limits
        too_large = f"the body is larger than the {limits.max_body_bytes} bytes this gateway takes"
        if (request.content_length or 0) > limits.max_body_bytes:
            raise Refused("body_too_large", error_answer(413, "invalid_request", "body_too_large", too_large))
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            if request.content.is_eof():  # it came with the head, as small bodies do: there is nothing to wait for
                return self._bounded(request.content.read_nowait())
            async with asyncio.timeout(limits.body_timeout):
                return await request.read()
        except web.HTTPRequestEntityTooLarge:
            raise Refused("body_too_large", error_answer(413, "invalid_request", "body_too_large", too_large)) from None
        except TimeoutError:
            message = f"the body did not arrive within {limits.body_timeout:g} s"
            raise Refused("body_too_slow", error_answer(408, "invalid_request", "body_too_slow", message)) from None

    def _bounded(self, body: bytes) -> bytes:
        if len(body) > self.limits.max_body_bytes:  # it came packed, and its stated length was that of the packing
            raise web.HTTPRequestEntityTooLarge(self.limits.max_body_bytes, len(body))
        return body

    def _healthz(self) -> web.Response:
        pool = self.proxy.pool
        routes = self.table.routes if self.table else ()
        down = [
            f"{route.service} in {route.env}"
            for route in routes
            if not any(
                spawn_id in pool.healthy
                for backend in route.backends
                if backend.track != Track.SHADOW
                for spawn_id, _ in backend.replicas
            )
        ]
        is_serving = self.table is not None and not self.proxy.is_draining
        status = "ok" if is_serving and not down else "degraded" if is_serving else "unavailable"
        revision = self.table.revision if self.table else 0
        body = {"status": status, "revision": revision, "draining": self.proxy.is_draining, "without_replicas": down}
        return json_answer(body, 200 if is_serving else 503)

    def _models(self, request: web.BaseRequest, env: str, identity: Identity | None) -> web.Response:
        table = self._table()
        env = env or request.headers.get(ENV_HEADER) or table.default_env
        data = [
            {"id": service, "object": "model", "created": int(table.issued_at), "owned_by": "airboss", "env": env}
            for service in table.services(env)
            if identity is None or identity.may_use(service)
        ]
        return json_answer({"object": "list", "data": data})

    async def _take_feedback(self, request: web.BaseRequest, identity: Identity | None) -> web.Response:
        if request.method != "POST":
            answer = error_answer(
                405, "invalid_request", "bad_method", "/feedback takes POST", headers={"Allow": "POST"}
            )
            raise Refused("bad_method", answer)
        try:
            entry = read_feedback(await self._body(request))
        except ValueError as error:
            raise Refused("bad_json", error_answer(400, "invalid_request", "bad_feedback", str(error))) from error
        who = identity.name if identity else client_id(request.headers, request.remote or "")
        if entry.texts and not self.feedback.takes_text:
            message = "this gateway keeps no text of feedback ([gateway] feedback_text): send the word alone"
            raise Refused("bad_json", error_answer(400, "invalid_request", "no_feedback_text", message))
        texts = await asyncio.to_thread(redacted, entry.texts) if entry.texts else None
        self.feedback.take(entry, time.time(), who, texts)
        return json_answer({"taken": True, "release": entry.request_id.release_id}, 202)


def _may_probe(request: web.BaseRequest, identity: Identity | None) -> bool:
    """Where callers prove who they are, only the engine's own prober probes: what a probe asks is not written down."""
    return _is_of_this_host(request) and (identity is None or identity.is_prober)


def _is_of_this_host(request: web.BaseRequest) -> bool:
    """The caller shares our address. Only such a one may probe: a probe's failure counts against nobody."""
    transport = request.transport
    if transport is None:
        return False
    peer, own = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
    return bool(peer and own and peer[0] == own[0])


def split_path(path: str) -> tuple[str, str, str]:
    """(env, service, rest): both names are "" unless the path is /{env}/{service}/v1/… or …/generate."""
    parts = path.split("/", 3)
    if (
        len(parts) == 4
        and parts[1] not in ("v1", "generate")
        and (parts[3].startswith("v1/") or parts[3] == "generate")
    ):
        return parts[1], parts[2], f"/{parts[3]}"
    return "", "", path
