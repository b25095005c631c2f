"""The server's HTTP: discovery, access, faults, the log, and the way from a request to its verb."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable

from aiohttp import ClientSession, ClientTimeout, web

from kube import resources
from kube.access import Access, Account
from kube.api import Api
from kube.errors import ApiError, bad_request
from kube.faults import Fault, Faults
from kube.requests import Request, RequestLog, Target, flag, read_body, target_of
from kube.resources import REVIEWS, Resource
from kube.values import Obj
from kube.watch import Watches

_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


class Http:
    """The one handler of the server's application."""

    def __init__(
        self, api: Api, access: Access, faults: Faults, log: RequestLog, watches: Watches, served: Iterable[Resource],
        logs: Callable[[str, str, bool, str], tuple[str, bool]], backing: Callable[[Target], tuple[str, int]],
    ) -> None:  # fmt: skip
        self._api, self._access, self._faults, self._log, self._watches = api, access, faults, log, watches
        self._served = tuple(served)
        self._paths = {(each.group, each.version, each.plural): each for each in self._served}
        self._logs, self._backing = logs, backing

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a request, with the fault that a test set for it."""
        raw = await request.read()
        fault = self._faults.next_for(request.method, request.path_qs)
        status, user = 0, ""
        try:
            if fault and fault.latency_s:
                await asyncio.sleep(fault.latency_s)
            if fault and fault.reset == "before":
                return _reset(request)
            account = self._access.account(request.headers.get("Authorization", ""))
            user = account.user
            if fault and fault.answer:
                raise fault.answer
            if fault and fault.raw:
                response: web.StreamResponse = web.Response(text=fault.raw, content_type="text/html")
            else:
                response = await self._answer(request, raw, account, fault)
        except ApiError as error:
            response = web.json_response(error.status(), status=error.code, headers=dict(error.headers))
        except Exception as error:
            self._log.add(_request(request, raw, user, 500))
            raise AssertionError(f"the test server failed on {request.method} {request.path_qs}") from error
        status = response.status
        self._log.add(_request(request, raw, user, status))
        if fault and fault.reset == "after":
            return _reset(request)
        if fault and fault.half_body and isinstance(response, web.Response):
            return await _half(request, response)
        return response

    async def _answer(
        self, request: web.Request, raw: bytes, account: Account, fault: Fault | None
    ) -> web.StreamResponse:
        if (document := self._document(request.path)) is not None:
            return web.json_response(document)
        target = target_of(request.path, self._paths)
        if target is None:
            return web.Response(text="404 page not found\n", status=404)
        watching = request.method == "GET" and flag(request.query, "watch")
        if target.which.plural in REVIEWS:
            return web.json_response(
                self._access.review(account, target.which.kind, read_body(raw, "json")), status=201
            )
        verb = self._verb(request.method, target, watching)
        self._access.check(account, verb, target.which, target.subresource, target.namespace, target.name)
        if watching:
            return await self._watches.serve(request, target, fault)
        if target.subresource == "log":
            return await self._send_log(request, target)
        if target.subresource == "proxy":
            return await self._proxied(request, raw, target)
        code, body = self._done(request, raw, verb, target)
        return web.json_response(body, status=code)

    def _document(self, path: str) -> Obj | str | None:
        steps = [step for step in path.split("/") if step]
        match steps:
            case ["version"]:
                return dict(resources.VERSION)
            case ["readyz" | "livez" | "healthz"]:
                return "ok"
            case ["api"]:
                return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
            case ["apis"]:
                return resources.groups_document(self._served)
            case ["api", version]:
                return resources.group_document("", version, self._served)
            case ["apis", group]:
                return resources.one_group(group, self._served)
            case ["apis", group, version]:
                return resources.group_document(group, version, self._served)
        return None

    def _verb(self, method: str, target: Target, watching: bool) -> str:
        if method not in _VERBS:
            raise ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
        if watching:
            return "watch"
        if not target.name:
            if method in ("PUT", "PATCH"):
                raise ApiError(
                    405, "MethodNotAllowed", "the server does not allow this method on the requested resource"
                )
            return {"GET": "list", "DELETE": "deletecollection"}.get(method, _VERBS[method])
        return _VERBS[method]

    def _done(self, request: web.Request, raw: bytes, verb: str, target: Target) -> tuple[int, Obj]:
        query = request.query
        content_type = request.headers.get("Content-Type", "application/json").split(";")[0].strip()
        manager = query.get("fieldManager") or request.headers.get("User-Agent", "unknown").split("/")[0]
        if verb == "get":
            return self._api.read(target)
        if verb == "list":
            return self._api.list(target, query)
        body = read_body(raw, content_type)
        if verb == "patch":
            return self._api.patch(target, query, body, content_type, manager)
        if verb == "create":
            return self._api.create(target, query, body, manager)
        if verb == "update":
            return self._api.replace(target, query, body, manager)
        return (self._api.delete if verb == "delete" else self._api.delete_all)(target, query, body)

    async def _send_log(self, request: web.Request, target: Target) -> web.StreamResponse:
        self._api.read(target)
        query = request.query
        container, stamped = query.get("container", ""), flag(query, "timestamps")
        text, ended = self._logs(target.namespace, target.name, flag(query, "previous"), container)
        if query.get("tailLines"):
            lines = text.splitlines(keepends=True)
            text = "".join(lines[max(0, len(lines) - int(query["tailLines"])) :])
        if not flag(query, "follow"):
            return web.Response(text=_stamped(text) if stamped else text, content_type="text/plain")
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        sent = 0
        while True:
            whole, ended = self._logs(target.namespace, target.name, False, container)
            whole = whole if ended or not stamped else whole[: whole.rfind("\n") + 1]
            whole = _stamped(whole) if stamped else whole
            await response.write(whole[sent:].encode())
            sent = len(whole)
            if ended:
                break
            await asyncio.sleep(0.02)
        await response.write_eof()
        return response

    async def _proxied(self, request: web.Request, raw: bytes, target: Target) -> web.StreamResponse:
        host, port = self._backing(target)
        url = f"http://{host}:{port}/{target.rest}"
        headers = {key: value for key, value in request.headers.items() if key in ("Content-Type", "Accept")}
        try:
            async with (
                ClientSession(timeout=ClientTimeout(30)) as session,
                session.request(request.method, url, params=request.query, data=raw, headers=headers) as answer,
            ):
                return web.Response(status=answer.status, body=await answer.read(), content_type=answer.content_type)
        except OSError as error:
            raise ApiError(503, "ServiceUnavailable", f"error trying to reach service: {error}") from None


def no_backing(target: Target) -> ApiError:
    """400: nothing listens for this pod."""
    return bad_request(
        f"no address is registered for {target.which.plural} {target.name}; say where it listens with pods.address"
    )


def _request(request: web.Request, raw: bytes, user: str, status: int) -> Request:
    content_type = request.headers.get("Content-Type", "")
    return Request(request.method, request.path, dict(request.query), content_type, raw, user, status)


def _reset(request: web.Request) -> web.StreamResponse:
    if request.transport:
        request.transport.abort()
    return web.Response()


async def _half(request: web.Request, whole: web.Response) -> web.StreamResponse:
    body = whole.body if isinstance(whole.body, bytes) else json.dumps({}).encode()
    response = web.StreamResponse(
        status=whole.status, headers={"Content-Type": "application/json", "Content-Length": str(len(body))}
    )
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    if request.transport:
        request.transport.close()
    return response


def _stamped(text: str) -> str:
    """Each line after a time; the first of a log was said first, whenever one asks."""
    lines = text.splitlines(keepends=True)
    return "".join(f"2026-01-01T00:00:00.{number:09d}Z {line}" for number, line in enumerate(lines, start=1))
