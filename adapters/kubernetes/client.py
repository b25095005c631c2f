"""The API server's HTTP: the dozen calls we make, with deadlines, retries and errors that a person can act on.

Reads and server-side apply are asked again after a timeout or a 5xx; a JSON patch is not: it may have happened, its caller
reads first. 429 is waited for as long as the server says. 401 reads the credentials anew, once.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import httpx

from adapters.kubernetes.access import Access
from adapters.kubernetes.refusals import error_of
from state.words import Denied, Unreachable

MANAGER = "airboss"
ATTEMPTS = 4
LONGEST_WAIT_S = 10.0
ACCESS_TIMEOUT_S = 20.0
PAGE = 500
Object = dict[str, Any]


class Expired(Exception):
    """410: the version that a watch begins at is forgotten; list again."""


class KubeClient:
    """One cluster. `access` reads the credentials (it may block); every call has `timeout_s`."""

    def __init__(
        self,
        access: Callable[[], Access],
        *,
        timeout_s: float = 10.0,
        transport: httpx.AsyncBaseTransport | None = None,
        pause_s: float = 0.3,
    ) -> None:
        self._access = access
        self.timeout_s = timeout_s
        self._transport = transport
        self._pause_s = pause_s
        self._client: httpx.AsyncClient | None = None
        self._opening = asyncio.Lock()
        self.before_write: Callable[[str], None] = lambda path: None
        """Raises when a write to the path may not be made now; asked before each try."""
        self.sign: Callable[[Object], Object] = lambda body: body
        """What else an object carries that is applied or made."""
        self.expires_at: float | None = None
        self.host = ""

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> Object | None:
        """The object, None when there is none."""
        answer = await self._ask("GET", path, params=params, again=True)
        return None if answer.status_code == 404 else self._body(answer, "get", path)

    async def list(self, path: str, selector: str = "") -> tuple[list[Object], str]:
        """All objects there, and the version a watch goes on from."""
        items: list[Object] = []
        params = {"limit": str(PAGE), **({"labelSelector": selector} if selector else {})}
        while True:
            answer = await self._ask("GET", path, params=params, again=True)
            if answer.status_code == 410:  # the continue token is too old
                params.pop("continue", None)
                items = []
                continue
            found = self._body(answer, "list", path)
            items += found.get("items") or []
            onward = found.get("metadata", {}).get("continue")
            if not onward:
                return items, str(found.get("metadata", {}).get("resourceVersion", ""))
            params["continue"] = onward

    async def apply(self, path: str, body: Object, *, dry_run: bool = False) -> Object:
        """Server-side apply without force. Raises Conflict, naming the other owner, when a field is another's."""
        params = {"fieldManager": MANAGER, "force": "false", **({"dryRun": "All"} if dry_run else {})}
        answer = await self._ask(
            "PATCH", path, params=params, body=self.sign(body), kind="application/apply-patch+yaml", again=True
        )
        return self._body(answer, "patch", path)

    async def patch(self, path: str, operations: Sequence[Mapping[str, Any]], *, dry_run: bool = False) -> Object:
        """JSON patch. Raises Conflict when one of its tests fails: the world has moved."""
        params = {"fieldManager": MANAGER, **({"dryRun": "All"} if dry_run else {})}
        answer = await self._ask(
            "PATCH", path, params=params, body=list(operations), kind="application/json-patch+json"
        )
        return self._body(answer, "patch", path, tests=any(o["op"] == "test" for o in operations))

    async def merge(self, path: str, body: Object) -> Object:
        """Merge patch of an absolute value; asked again after a timeout."""
        answer = await self._ask(
            "PATCH", path, params={"fieldManager": MANAGER}, body=body, kind="application/merge-patch+json", again=True
        )
        return self._body(answer, "patch", path)

    async def create(self, path: str, body: Object) -> Object:
        """POST. Raises Conflict when it is there already."""
        answer = await self._ask(
            "POST", path, params={"fieldManager": MANAGER}, body=self.sign(body), kind="application/json"
        )
        return self._body(answer, "create", path)

    async def delete(self, path: str) -> bool:
        """Delete it and, in the background, what it owns; False when it is not there."""
        answer = await self._ask("DELETE", path, params={"propagationPolicy": "Background"}, again=True)
        if answer.status_code != 404:
            self._body(answer, "delete", path)
        return answer.status_code != 404

    async def lines(self, path: str, params: Mapping[str, str], *, quiet_s: float = 60.0) -> AsyncIterator[str]:
        """A text's lines as they are written, until it ends or nothing comes for `quiet_s`. Raises Unreachable, and as `text` does."""
        client = await self._open()
        timeout = httpx.Timeout(self.timeout_s, read=quiet_s)
        try:
            async with client.stream("GET", path, params=params, timeout=timeout) as answer:
                if answer.status_code >= 400:
                    await answer.aread()
                    if answer.status_code == 401:
                        await self._forget(client)
                    raise error_of(answer, "get", path)
                async for line in answer.aiter_lines():
                    yield line
        except httpx.HTTPError as error:
            raise Unreachable(f"{path} broke off: {type(error).__name__}: {error}", hint=_HINT) from error

    async def text(self, path: str, params: Mapping[str, str] | None = None) -> str:
        """A plain text, such as a pod's log."""
        answer = await self._ask("GET", path, params=params, again=True)
        if answer.status_code >= 400:
            raise error_of(answer, "get", path)
        return answer.text

    async def through(self, path: str, body: Object, timeout_s: float) -> httpx.Response:
        """POST through the API server's proxy to a pod; the answer is the pod's own, whatever it says."""
        client = await self._open()
        try:
            return await client.post(path, json=body, timeout=timeout_s)
        except httpx.HTTPError as error:
            raise Unreachable(f"{self.host}: {type(error).__name__}: {error}", hint=_HINT) from error

    async def watch(self, path: str, selector: str, version: str, *, lasts_s: int = 240) -> AsyncIterator[Object]:
        """Events after `version` until the server ends the watch. Raises Expired when it has forgotten `version`."""
        params = {
            "watch": "true", "allowWatchBookmarks": "true", "resourceVersion": version, "timeoutSeconds": str(lasts_s),
            **({"labelSelector": selector} if selector else {}),
        }  # fmt: skip
        client = await self._open()
        timeout = httpx.Timeout(self.timeout_s, read=lasts_s + self.timeout_s)
        try:
            async with client.stream("GET", path, params=params, timeout=timeout) as answer:
                if answer.status_code >= 400:
                    await answer.aread()
                    if answer.status_code == 410:
                        raise Expired
                    if answer.status_code == 401:
                        await self._forget(client)
                    raise error_of(answer, "watch", path)
                async for line in answer.aiter_lines():
                    if not line.strip():
                        continue
                    event: Object = json.loads(line)
                    if event.get("type") == "ERROR":
                        if event["object"].get("code") == 410:
                            raise Expired
                        raise Unreachable(f"the watch of {path} ended: {event['object'].get('message')}", hint=_HINT)
                    yield event
        except (httpx.HTTPError, ValueError) as error:
            raise Unreachable(f"the watch of {path} broke off: {type(error).__name__}: {error}", hint=_HINT) from error

    async def close(self) -> None:
        """Let go of connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        kind: str = "",
        again: bool = False,
    ) -> httpx.Response:
        content = None if body is None else json.dumps(body).encode()
        headers = {"content-type": kind} if kind else {}
        renewed = False
        for attempt in range(1, ATTEMPTS + 1):
            if method != "GET":
                self.before_write(path)
            client = await self._open()
            try:
                answer = await client.request(method, path, params=params, content=content, headers=headers)
            except httpx.HTTPError as error:
                if isinstance(error, httpx.ConnectError):  # the kubeconfig may name another server by now
                    await self._forget(client)
                if attempt == ATTEMPTS or not (again or isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)):
                    said = f"{self.host} did not answer {method} {path}: {type(error).__name__} {error}".rstrip()
                    raise Unreachable(said, hint=_HINT) from error
                await self._wait(attempt)
                continue
            if answer.status_code == 401 and not renewed:
                renewed = True
                await self._forget(client)
                continue
            if attempt < ATTEMPTS and (answer.status_code == 429 or (again and answer.status_code >= 500)):
                await self._wait(attempt, answer.headers.get("retry-after", ""))
                continue
            return answer
        raise Unreachable(f"{self.host} did not accept {method} {path}", hint=_HINT)

    async def _wait(self, attempt: int, asked: str = "") -> None:
        """As long as the server asked for; else longer each time, and never in step with others."""
        longest = self._pause_s * 2 ** (attempt - 1)
        jittered = random.uniform(longest / 2, longest)
        await asyncio.sleep(min(LONGEST_WAIT_S, float(asked) if asked.isdigit() else jittered))

    async def _open(self) -> httpx.AsyncClient:
        async with self._opening:
            if self._client is None:
                try:
                    async with asyncio.timeout(ACCESS_TIMEOUT_S):
                        access = await asyncio.to_thread(self._access)
                except TimeoutError:
                    raise Denied(
                        f"the cluster's credentials could not be read within {ACCESS_TIMEOUT_S:g} s",
                        hint="does the kubeconfig's exec plugin wait for somebody? run kubectl once by hand",
                        code="kube_credentials",
                    ) from None
                self.host, self.expires_at = access.host, access.expires_at
                self._client = httpx.AsyncClient(
                    base_url=access.host, headers=access.headers, verify=access.tls, timeout=self.timeout_s,
                    transport=self._transport, trust_env=False, proxy=access.proxy,
                )  # fmt: skip
            return self._client

    async def _forget(self, client: httpx.AsyncClient) -> None:
        """Have the credentials read again; whoever still uses `client` finishes with it."""
        if self._client is client:
            self._client = None

    def _body(self, answer: httpx.Response, verb: str, path: str, *, tests: bool = False) -> Object:
        if answer.status_code >= 400:
            raise error_of(answer, verb, path, tests=tests)
        try:
            found: Object = answer.json()
        except ValueError as error:
            raise Unreachable(f"{self.host}{path} answered something that is no JSON", hint=_HINT) from error
        return found


_HINT = "is the cluster up, and reachable from here? what serves goes on serving meanwhile"
