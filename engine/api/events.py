"""The event stream: what changed, numbered, with the last few kept for those who come back."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator

from engine.api.schemas import Event

KEPT = 1000
HEARTBEAT_S = 10.0


class EventHub:
    """Numbers events and hands them to every listener. One an engine, used on its event loop."""

    def __init__(self) -> None:
        self._kept: deque[Event] = deque(maxlen=KEPT)
        self._seq = 0
        self._new = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def seq(self) -> int:
        """The newest event's number."""
        return self._seq

    def publish(self, ref: str, message: str = "", type_: str = "MODIFIED") -> None:
        """Tell every listener that something about `ref` changed."""
        self._seq += 1
        self._kept.append(
            Event(seq=self._seq, at=time.time(), type=type_, ref=ref.replace(":", "/", 1), message=message)
        )
        task = asyncio.get_running_loop().create_task(self._wake())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _wake(self) -> None:
        async with self._new:
            self._new.notify_all()

    async def after(self, seq: int) -> AsyncIterator[Event]:
        """Events after number `seq`, for ever; a HEARTBEAT when nothing happened for a while."""
        while True:
            for event in [e for e in self._kept if e.seq > seq]:
                seq = event.seq
                yield event
            if seq >= self._seq:
                try:
                    async with asyncio.timeout(HEARTBEAT_S), self._new:
                        await self._new.wait()
                except TimeoutError:
                    yield Event(seq=self._seq, at=time.time(), type="HEARTBEAT", ref="engine")
