"""Work off the requests' path: a bounded number at a time for each place, a bounded queue behind it, and no more than that."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Place = tuple[str, str]
"""Service and environment."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many are worked on at once, how many may wait, and how many bytes those may hold."""

    running: int
    waiting: int
    waiting_bytes: int = sys.maxsize


@dataclass(slots=True, eq=False)
class _Lane(Generic[T]):
    running: int = 0
    waiting: deque[tuple[T, int]] = field(default_factory=deque)
    waiting_bytes: int = 0


class Lanes(Generic[T]):
    """Works on what is offered, a lane for each place: a busy one holds up no other."""

    def __init__(
        self, name: str, work: Callable[[T], Coroutine[Any, Any, None]], failed: Callable[[BaseException], None]
    ):
        """`failed` is told what `work` raised."""
        self._name = name
        self._work = work
        self._failed = failed
        self._lanes: dict[Place, _Lane[T]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def running(self) -> int:
        """How many are worked on now."""
        return len(self._tasks)

    def offer(self, place: Place, item: T, bounds: Bounds, size: int = 0) -> bool:
        """Take the item, of `size` bytes, now or when its turn comes. Returns False when the bounds do not allow it."""
        lane = self._lanes.setdefault(place, _Lane())
        if lane.running < bounds.running:
            self._start(lane, item)
        elif len(lane.waiting) < bounds.waiting and lane.waiting_bytes + size <= bounds.waiting_bytes:
            lane.waiting.append((item, size))
            lane.waiting_bytes += size
        else:
            return False
        return True

    async def close(self) -> int:
        """Leave off: a worker that goes does not wait for it. Returns how many had not begun."""
        left = sum(len(lane.waiting) for lane in self._lanes.values())
        for lane in self._lanes.values():
            lane.waiting.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        return left

    def _start(self, lane: _Lane[T], item: T) -> None:
        lane.running += 1
        task = asyncio.create_task(self._work(item), name=self._name)
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._ended(lane, done))

    def _ended(self, lane: _Lane[T], task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        lane.running -= 1
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error)
        if lane.waiting and not task.cancelled():
            item, size = lane.waiting.popleft()
            lane.waiting_bytes -= size
            self._start(lane, item)
