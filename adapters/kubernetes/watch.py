"""What the cluster has, kept by list and watch: a hint for those who may not wait. Who acts reads first."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable

from adapters.kubernetes.client import Expired, KubeClient, Object
from state.words import AirbossError

log = logging.getLogger("airboss.kubernetes")
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0


class Cache:
    """The objects of one kind that match a selector, by name. `trouble` says why it may be old; "" when it follows."""

    def __init__(self, client: KubeClient, path: str, selector: str, on_change: Callable[[], None]) -> None:
        self.client = client
        self.path = path
        self.selector = selector
        self.objects: dict[str, Object] = {}
        self.trouble = "not read yet"
        self.seen_at = 0.0
        self.is_filled = asyncio.Event()
        self._on_change = on_change

    async def run(self) -> None:
        """List, then follow, until cancelled. 410 lists again at once; trouble waits longer each time."""
        pause, version = FIRST_PAUSE_S, ""
        while True:
            try:
                if not version:
                    version = await self.fill()
                pause = FIRST_PAUSE_S
                async for event in self.client.watch(self.path, self.selector, version):
                    version = self._take(event) or version
            except Expired:
                version = ""
            except AirbossError as error:
                if self.trouble != error.message:
                    log.warning("%s: %s", self.path, error)
                self.trouble = error.message
                await asyncio.sleep(random.uniform(pause / 2, pause))
                # What happened meanwhile may have been forgotten, or the server may be another: begin with a list.
                pause, version = min(LONGEST_PAUSE_S, pause * 2), ""

    async def fill(self) -> str:
        """List everything. Returns the version that a watch goes on from. Raises AirbossError."""
        items, version = await self.client.list(self.path, self.selector)
        self.objects = {item["metadata"]["name"]: item for item in items}
        self._followed()
        self.is_filled.set()
        self._on_change()
        return version

    def _take(self, event: Object) -> str:
        """Take an event in; returns the version it brings the watch to."""
        item, kind = event["object"], event["type"]
        self._followed()
        if kind == "DELETED":
            self.objects.pop(item["metadata"]["name"], None)
        elif kind != "BOOKMARK":
            self.objects[item["metadata"]["name"]] = item
        if kind != "BOOKMARK":
            self._on_change()
        return str(item["metadata"].get("resourceVersion", ""))

    def _followed(self) -> None:
        self.trouble, self.seen_at = "", time.time()

    def put(self, item: Object) -> None:
        """What a write has just answered; the watch brings it again."""
        known = self.objects.get(item["metadata"]["name"])
        if known is None or _version(item) > _version(known):
            self.objects[item["metadata"]["name"]] = item


def _version(item: Object) -> int:
    """Resource versions can be compared as numbers since Kubernetes 1.35; one that is none is taken to be old."""
    text = str(item["metadata"].get("resourceVersion", ""))
    return int(text) if text.isdigit() else 0
