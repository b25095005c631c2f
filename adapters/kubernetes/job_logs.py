"""What a Job's containers say, as they say it, on this process's standard output."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from adapters.kubernetes.client import KubeClient
from state.words import AirbossError, Unreachable

AGAIN_S = 0.5
DRAIN_S = 30.0
"""How long the last lines of a Job that has ended are waited for."""


class JobLogs:
    """One follower a container that has begun. A stream that breaks off goes on after the last line that came."""

    def __init__(self, client: KubeClient, pods: str) -> None:
        """`pods` is the path of the namespace's pods."""
        self._client, self._pods = client, pods
        self._followers: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._over: set[tuple[str, str]] = set()

    def follow(self, pods: Iterable[Mapping[str, Any]]) -> None:
        """Follow what has begun of these pods."""
        for pod in pods:
            status = pod.get("status", {})
            for one in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
                key = pod["metadata"]["name"], one["name"]
                if "terminated" in one.get("state", {}):
                    self._over.add(key)
                if key not in self._followers and {"running", "terminated"} & set(one.get("state", {})):
                    self._followers[key] = asyncio.create_task(self._print(*key))

    async def drain(self) -> None:
        """Wait for the rest of what was said."""
        if self._followers:
            await asyncio.wait(self._followers.values(), timeout=DRAIN_S)

    async def close(self) -> None:
        """Follow no more."""
        for task in self._followers.values():
            task.cancel()
        await asyncio.gather(*self._followers.values(), return_exceptions=True)

    async def _print(self, pod: str, container: str) -> None:
        last = ""
        while True:
            params = {"container": container, "follow": "true", "timestamps": "true"}
            if last:
                params["sinceTime"] = f"{last[:19]}Z"
            was_over = (pod, container) in self._over
            try:
                async for line in self._client.lines(f"{self._pods}/{pod}/log", params):
                    stamp, _, text = line.partition(" ")
                    if stamp > last:
                        last = stamp
                        _say(text)
                if was_over:
                    return
            except Unreachable:
                pass  # it goes on after the last line, once the API server answers
            except AirbossError as error:
                with contextlib.suppress(ValueError):
                    _say(f"(the log of {pod}/{container} cannot be read: {error.message})")
                return
            await asyncio.sleep(AGAIN_S if not was_over else 0.1)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
