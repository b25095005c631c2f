"""WATCH: the changes after a version, as lines of JSON, until the client, the timeout or a test ends it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from aiohttp import web

from kube.errors import ApiError
from kube.faults import Fault
from kube.requests import Target, flag
from kube.selectors import field_test, label_test
from kube.store import Change, Store
from kube.values import Obj, at


class Watches:
    """The open watches of a server, which live in its loop; every method may be called from any thread."""

    def __init__(self, store: Store, loop: asyncio.AbstractEventLoop) -> None:
        self._store, self._loop = store, loop
        self._wakers: set[asyncio.Event] = set()
        self._cuts = 0
        self._bookmarks = 0

    def woken(self) -> None:
        """Something changed: every watch looks."""
        with suppress(RuntimeError):  # the loop is closed: no watch is left
            self._loop.call_soon_threadsafe(lambda: [waker.set() for waker in self._wakers])

    def cut(self) -> None:
        """End every open watch as a load balancer would."""
        self._cuts += 1
        self.woken()

    def bookmark(self) -> None:
        """Send a bookmark to every watch that allows them."""
        self._bookmarks += 1
        self.woken()

    @property
    def open(self) -> int:
        """How many watches there are now."""
        return len(self._wakers)

    async def serve(self, request: web.Request, target: Target, fault: Fault | None) -> web.StreamResponse:
        """Answer a watch until its end."""
        query = request.query
        test = _test(target, query)
        version = query.get("resourceVersion", "")
        with self._store.lock:
            known = self._store.version
            start: list[Obj] = []
            if version in ("", "0"):
                start = [obj for obj in self._store.all(target.which, target.namespace) if test(obj)]
                seen = known
            else:
                seen = int(version)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        wire = _Wire(request, response, fault)
        waker = asyncio.Event()
        self._wakers.add(waker)
        try:
            for obj in start:
                await wire.send("ADDED", obj)
            if flag(query, "sendInitialEvents"):
                await wire.send("BOOKMARK", _bookmark(target, seen, initial=True))
            await self._follow(wire, waker, target, test, seen, query)
        except (_Cut, ConnectionError):
            return response
        finally:
            self._wakers.discard(waker)
        await response.write_eof()
        return response

    async def _follow(
        self,
        wire: _Wire,
        waker: asyncio.Event,
        target: Target,
        test: Callable[[Obj], bool],
        seen: int,
        query: Mapping[str, str],
    ) -> None:
        cuts, bookmarks = self._cuts, self._bookmarks
        until = time.monotonic() + float(query.get("timeoutSeconds") or 1800)
        while True:
            waker.clear()
            try:
                changes = self._store.changes(seen)
            except ApiError as error:
                await wire.send("ERROR", error.status())
                return
            for change in changes:
                seen = change.version
                told = _told(target, test, change)
                if told is not None:
                    await wire.send(*told)
            if self._cuts > cuts:
                return
            timed_out = time.monotonic() >= until
            if (self._bookmarks > bookmarks or timed_out) and flag(query, "allowWatchBookmarks"):
                bookmarks = self._bookmarks
                await wire.send("BOOKMARK", _bookmark(target, seen))
            if timed_out:
                return
            try:
                await asyncio.wait_for(waker.wait(), max(0.0, until - time.monotonic()))
            except TimeoutError:
                continue


class _Cut(Exception):
    """The watch ends by a fault."""


class _Wire:
    """Where the lines go, and the fault that may cut them."""

    def __init__(self, request: web.Request, response: web.StreamResponse, fault: Fault | None) -> None:
        self._request, self._response, self._sent = request, response, 0
        self._fault = fault if fault and fault.cut_watch_after is not None else None

    async def send(self, kind: str, obj: Any) -> None:
        """One event. Raises _Cut where the fault says that this one does not arrive whole."""
        line = json.dumps({"type": kind, "object": obj}).encode() + b"\n"
        if self._fault and self._sent >= (self._fault.cut_watch_after or 0):
            if self._fault.half_body:
                await self._response.write(line[: len(line) // 2])
            if self._request.transport:
                self._request.transport.close()
            raise _Cut
        await self._response.write(line)
        self._sent += 1


def _test(target: Target, query: Mapping[str, str]) -> Callable[[Obj], bool]:
    by_label, by_field = (
        label_test(query.get("labelSelector", "")),
        field_test(target.which, query.get("fieldSelector", "")),
    )
    named = target.name
    return lambda obj: (
        by_label(at(obj, "metadata", "labels", default={}))
        and by_field(obj)
        and (not named or obj["metadata"]["name"] == named)
    )


def _told(target: Target, test: Callable[[Obj], bool], change: Change) -> tuple[str, Obj] | None:
    """The event that a watch with this selector has of a change; None where it has none."""
    if change.which is not target.which or target.namespace not in ("", change.key[0]):
        return None
    was, now = change.old is not None and test(change.old), change.kind != "DELETED" and test(change.new)
    if now:
        return ("MODIFIED" if was else "ADDED"), change.new
    if was:
        return "DELETED", change.new
    return None


def _bookmark(target: Target, version: int, *, initial: bool = False) -> Obj:
    meta: Obj = {"resourceVersion": str(version), "creationTimestamp": None}
    if initial:
        meta["annotations"] = {"k8s.io/initial-events-end": "true"}
    return {"kind": target.which.kind, "apiVersion": target.which.api_version, "metadata": meta}
