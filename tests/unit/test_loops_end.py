"""Loops that go on until cancelled end at once, even when what they wait for happens at that very instant."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from rollout_room import Room

from engine.people.hooks.sender import HookSender
from state.store import Store


@pytest.mark.parametrize("which", ["controller", "hooks"])
async def test_a_loop_that_is_woken_and_cancelled_at_one_instant_ends(tmp_path: Path, which: str) -> None:
    store = Store.open(tmp_path / "state.db")
    room = Room(store, tmp_path)
    for turns in range(4):
        loop = room.controller if which == "controller" else HookSender(store, {}, "test")
        task = asyncio.create_task(loop.run())
        await asyncio.sleep(0.1)
        loop.wake.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=20)
        assert done and task.cancelled()
    store.close()
