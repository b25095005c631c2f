"""Work off the requests' path keeps its bounds, whoever offers how much."""

from __future__ import annotations

import asyncio

from engine.gateway.lanes import Bounds, Lanes

HERE, THERE = ("chat", "production"), ("search", "production")


class Hands:
    """Works on names until it is told that one is done."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.failed: list[str] = []
        self.over: dict[str, asyncio.Event] = {}
        self.lanes = Lanes[str]("test", self.work, lambda error: self.failed.append(str(error)))

    async def work(self, name: str) -> None:
        self.began.append(name)
        await self.over.setdefault(name, asyncio.Event()).wait()
        if name.startswith("bad"):
            raise ValueError(name)

    async def end(self, name: str) -> None:
        self.over[name].set()
        for _ in range(5):
            await asyncio.sleep(0)


async def test_so_many_at_once_so_many_behind_and_the_rest_is_refused_by_place() -> None:
    hands, bounds = Hands(), Bounds(running=1, waiting=2)
    taken = [hands.lanes.offer(HERE, name, bounds) for name in ("a", "b", "c", "d")]
    assert taken == [True, True, True, False]
    assert hands.lanes.offer(THERE, "other", bounds), "a lane that is full holds up no other"
    await asyncio.sleep(0)
    assert (hands.began, hands.lanes.running) == (["a", "other"], 2)
    await hands.end("a")
    assert hands.began == ["a", "other", "b"], "in the order they came"
    await hands.lanes.close()


async def test_what_waits_holds_no_more_bytes_than_it_may() -> None:
    hands, bounds = Hands(), Bounds(running=1, waiting=10, waiting_bytes=100)
    assert [hands.lanes.offer(HERE, name, bounds, size=60) for name in ("a", "b", "c")] == [True, True, False]
    await asyncio.sleep(0)
    await hands.end("a")
    assert hands.lanes.offer(HERE, "d", bounds, size=60), "what has begun waits no more"
    await hands.lanes.close()


async def test_one_that_fails_is_told_and_the_next_begins() -> None:
    hands, bounds = Hands(), Bounds(running=1, waiting=1)
    for name in ("bad", "good"):
        hands.lanes.offer(HERE, name, bounds)
    await asyncio.sleep(0)
    await hands.end("bad")
    assert (hands.failed, hands.began) == (["bad"], ["bad", "good"])
    await hands.lanes.close()


async def test_closing_waits_for_nobody_and_says_how_many_had_not_begun() -> None:
    hands, bounds = Hands(), Bounds(running=1, waiting=5)
    for name in ("a", "b", "c"):
        hands.lanes.offer(HERE, name, bounds)
    await asyncio.sleep(0)
    assert await hands.lanes.close() == 2
    assert (hands.lanes.running, hands.began, hands.failed) == (0, ["a"], [])
