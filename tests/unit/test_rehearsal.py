"""A way back is rehearsed as the engine starts: its statements are ready, and nothing of it is kept."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from rollout_room import NO_WORD, Room
from sqlalchemy import event

from engine.rollouts import rehearsal
from engine.rollouts.world import World
from state.store import Store
from state.words import Conflict, RolloutState

S = RolloutState


def content(path: Path) -> dict[str, list[Any]]:
    """Every row of every table."""
    with closing(sqlite3.connect(path)) as file:
        names = [name for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: file.execute(f"SELECT * FROM {name}").fetchall() for name in names}


def compiled(store: Store) -> list[str]:
    """The statements that the store compiles from now on."""
    seen: list[str] = []
    for engine in (store._writer_engine, store._reader_engine):

        @event.listens_for(engine, "before_cursor_execute")
        def look(conn, cursor, statement, values, context, many):  # type: ignore[no-untyped-def]
            if context is not None and context.compiled is not None and "HIT" not in context.cache_hit.name:
                seen.append(statement)

    return seen


async def at_half(tmp_path: Path) -> tuple[Path, str]:
    """A store of an engine that was killed beside a canary that is being judged."""
    store = Store.open(tmp_path / "state.db")
    room = Room(store, tmp_path)
    room.counts.canary = NO_WORD
    rollout_id = (await room.deploy("b")).ref.removeprefix("rollout/")
    await room.until(rollout_id, S.STEP_BAKING)
    store.close()
    return tmp_path / "state.db", rollout_id


class Again(Room):
    """The next engine, over what is there."""

    def _begin(self, session: Any) -> None:
        return


async def first_rollback(path: Path, rollout_id: str, *, rehearsed: bool) -> list[str]:
    store = Store(path)
    room = Again(store, path.parent)
    room.processes.there["b"] = 1
    if rehearsed:
        await rehearsal.rehearse(store, room.controller.world)
    seen = compiled(store)
    await room.ask("rollback", f"rollout/{rollout_id}")
    await asyncio.gather(*room.controller._going.values())
    found = list(seen)
    assert room.weights() == {"a": 100}
    store.close()
    return found


async def test_the_first_rollback_of_an_engine_compiles_little_that_was_not_rehearsed(tmp_path: Path) -> None:
    found = {}
    for rehearsed in (False, True):
        home = tmp_path / str(rehearsed)
        home.mkdir()
        path, rollout_id = await at_half(home)
        found[rehearsed] = await first_rollback(path, rollout_id, rehearsed=rehearsed)
    assert len(found[False]) > 20
    assert len(found[True]) <= len(found[False]) / 4, found[True]


async def test_nothing_of_a_rehearsal_is_kept(tmp_path: Path) -> None:
    path, _ = await at_half(tmp_path)
    before, anchored = content(path), path.with_name("audit.head").read_text()
    store = Store(path)
    room = Again(store, tmp_path)
    await rehearsal.rehearse(store, room.controller.world)
    store.close()
    assert content(path) == before
    assert path.with_name("audit.head").read_text() == anchored
    assert room.workers.splits == [], "no gateway was told of it"


async def test_a_rehearsal_that_fails_stops_no_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = await at_half(tmp_path)

    def locked(session: Any, world: World, service: str) -> None:
        raise Conflict("locked")

    monkeypatch.setattr(rehearsal, "_play", locked)
    store = Store(path)
    await rehearsal.rehearse(store, Again(store, tmp_path).controller.world)
    store.close()
