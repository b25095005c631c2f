"""Cases of reference/delivery.md §G on the real store and controller, in virtual time; tests/CASES.md lists where all are."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from engine_room import Room, room
from sqlmodel import select

from engine.rollouts import records
from state import sqlite_file as store_module
from state.migrate import current_revision, downgrade, upgrade
from state.models import Audit, Rollout
from state.store import Store
from state.words import AirbossError, Conflict, RolloutState, Unreachable

S = RolloutState
HOUR_S = 3600.0


@pytest.fixture
def there(store: Store) -> Iterator[Room]:
    with room(store, 0) as made:
        yield made


def at(there: Room) -> Rollout:
    """The newest rollout's row."""
    return there.store.read_now(lambda s: max(s.exec(select(Rollout)), key=lambda r: int(r.id.rpartition("-")[2])))


async def until(there: Room, claim: Callable[[], bool], what: str, rounds: int = 60) -> None:
    """Look, a second at a time, until the claim holds; the invariants hold all the while."""
    for _ in range(rounds):
        if claim():
            return
        there.outside.time.passes(1.0)
        await there.look()
        there.assert_invariants()
    raise AssertionError(f"not in {rounds} rounds: {what}; {there.what_there_is()}")


async def live(there: Room, release: str = "a") -> None:
    await there.deploy(release)
    await until(there, lambda: at(there).state == S.COMPLETED, f"{release} is live")


async def until_state(there: Room, state: S, step: int = 0) -> None:
    await until(there, lambda: (at(there).state, at(there).step) == (state, step), f"{state} {step}")


def without_evidence(there: Room, patch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Nothing is counted from now on, so that a step stays; returns what lets counts come again."""
    arms = there.outside.arms

    async def none(*asked: Any) -> Any:
        found = await arms(*asked)
        return type(found)((), 0.0, 0.0)

    patch.setattr(there.outside, "arms", none)
    return lambda: patch.setattr(there.outside, "arms", arms)


def test_case_3_a_table_that_was_taken_and_whose_answer_was_lost_is_set_once(
    there: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, lost = there.outside.put, []

    async def unheard(table: Mapping[str, Any]) -> None:
        await put(table)
        if not lost and there.outside.meant.get("b"):
            lost.append(table["revision"])
            raise Unreachable("the answer did not come")

    async def play() -> None:
        await live(there)
        monkeypatch.setattr(there.outside, "put", unheard)
        await there.deploy("b")
        await until_state(there, S.COMPLETED, 1)

    asyncio.run(play())
    assert lost, "an answer was lost"
    ended = there.what_there_is()
    assert ended["open"] == []
    assert [state for state, _ in ended["paths"]["ro-2"]].count("step_baking") == 2, "each step was taken once"


def test_case_8_two_consoles_promote_the_same_step_and_it_moves_by_one(
    there: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play() -> list[str | BaseException]:
        await live(there)
        without_evidence(there, monkeypatch)
        await there.deploy("b")
        await until_state(there, S.STEP_BAKING)
        shown = at(there).revision
        both = (
            there.controller.verb(at(there).id, "rollout.promote", f"user:{who}", "", shown) for who in ("ann", "bob")
        )
        return list(await asyncio.gather(*both, return_exceptions=True))

    first, second = asyncio.run(play())
    assert isinstance(first, str) and "ann" in first
    assert isinstance(second, Conflict) and second.code == "revision_moved"
    assert (at(there).state, at(there).step) == (S.STEP_APPLYING, 1)


@pytest.mark.parametrize("way", ["promote", "rollback"])
def test_cases_13_and_46_a_registry_that_is_down_holds_no_traffic_and_follows_later(
    there: Room, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    up = there._registry

    async def down() -> Any:
        raise Unreachable("the registry does not answer")

    async def look_without_registry(act: Callable[[], Awaitable[None]]) -> None:
        try:
            await act()
        except Unreachable:
            return  # what the queue's own loop does: tried again later

    async def play() -> None:
        await live(there)
        await there.deploy("b")
        await until_state(there, S.STEP_BAKING)
        monkeypatch.setattr(there, "_registry", down)
        there._make()
        turn = there.queue._turn
        monkeypatch.setattr(there.queue, "_turn", lambda: look_without_registry(turn))
        if way == "rollback":
            await there.roll_back()
        ended = S.COMPLETED if way == "promote" else S.ROLLED_BACK
        await until(there, lambda: at(there).state == ended, f"{ended} without a registry")
        assert there.what_there_is()["weights"] == [{"b" if way == "promote" else "a": 100}] * 2
        assert at(there).registry_sync == "pending"
        monkeypatch.setattr(there, "_registry", up)
        await there.restart()
        await until(there, lambda: at(there).registry_sync == "ok", "the registry follows")
        assert there.outside.aliases_["champion"] == ("2" if way == "promote" else "1")

    asyncio.run(play())


def test_case_47_an_alias_moved_by_hand_is_told_and_not_overwritten(there: Room) -> None:
    async def play() -> None:
        await live(there)
        await there.deploy("b")
        await until_state(there, S.STEP_BAKING)
        there.outside.aliases_["champion"] = "9"
        await until(there, lambda: at(there).state == S.COMPLETED, "b is live")
        await until(there, lambda: "somebody moved it" in at(there).registry_sync, "the drift is told")

    asyncio.run(play())
    assert there.outside.aliases_["champion"] == "9"
    told = there.store.read_now(lambda s: s.exec(select(Audit).where(Audit.action == "registry.drift")).all())
    assert told and "9" in told[0].reason


@pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S])
def test_case_22_a_wall_clock_that_jumps_does_not_shorten_a_bake(
    there: Room, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    async def play() -> None:
        await live(there)
        without_evidence(there, monkeypatch)
        await there.deploy("b")
        await until_state(there, S.STEP_BAKING)
        there.outside.time.utc += jump_s
        for _ in range(3):
            there.outside.time.passes(1.0)
            await there.look()
        assert at(there).state == S.STEP_BAKING, "an hour that did not pass is neither patience used up nor a pass"

    asyncio.run(play())


@pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S])
def test_case_22_a_wall_clock_that_jumps_neither_ends_a_warm_hold_nor_stretches_it(there: Room, jump_s: float) -> None:
    async def play() -> None:
        await live(there)
        await there.deploy("b")
        await until_state(there, S.COMPLETED, 1)
        there.outside.time.utc += jump_s
        for _ in range(5):
            there.outside.time.passes(2.0)
            await there.look()
        assert "a" in there.outside.running(), "the way back is warm as long as was said"
        there.outside.time.passes(20.0)
        await there.look()
        assert "a" not in there.outside.running(), "and no longer"

    asyncio.run(play())


def test_case_15_a_log_cut_off_by_a_power_loss_opens_and_the_rollout_goes_on_from_what_the_world_is(
    there: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def begin() -> None:
        await live(there)
        with closing(sqlite3.connect(there.store.path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        await there.deploy("b")
        await until_state(there, S.STEP_BAKING)

    asyncio.run(begin())
    wal = there.store.path.with_name("state.db-wal").read_bytes()
    assert len(wal) > 20_000
    ends = set()
    for kept in (0.35, 0.6, 0.85, 0.999):
        home = tmp_path / str(kept)
        home.mkdir()
        shutil.copy(there.store.path, home / "state.db")
        (home / "state.db-wal").write_bytes(wal[: int(len(wal) * kept)])
        with closing(Store.open(home / "state.db")) as opened:
            row = opened.read_now(lambda s: s.get(Rollout, "ro-2"))
            ends.add(row.state if row else "never planned")
            before = opened.read_now(records.active_ids)
            assert before == (["ro-2"] if row and not S(row.state).is_terminal else [])
    assert len(ends) > 1, f"cut at different places it stands at different states: {ends}"


def test_case_17_a_store_locked_by_another_process_is_said_and_nothing_is_lost(
    there: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "BUSY_TIMEOUT_MS", 100)
    home = there.store.path.with_name("locked.db")
    shutil.copy(there.store.path.with_name("template.db"), home)
    with closing(Store(home)) as store, closing(sqlite3.connect(home, isolation_level=None)) as other:
        there.store = store
        asyncio.run(there.deploy("a"))
        there._make()
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Conflict) as refused:
            asyncio.run(there.look())
        assert refused.value.code == "store_locked"
        assert store.read_now(records.active_ids) == ["ro-1"], "what is there can be read all the while"
        other.execute("ROLLBACK")
        asyncio.run(until(there, lambda: at(there).state == S.COMPLETED, "it goes on once the lock is gone"))
    for left in home.parent.glob("locked.db*"):
        left.unlink()


def test_an_engine_of_a_newer_version_goes_on_with_the_rollout_of_the_one_before(there: Room, tmp_path: Path) -> None:
    asyncio.run(live(there))

    async def half_way() -> None:
        await there.deploy("b")
        await until_state(there, S.STEP_BAKING)

    asyncio.run(half_way())
    older = tmp_path / "state.db"
    with closing(sqlite3.connect(there.store.path)) as source, closing(sqlite3.connect(older)) as target:
        source.backup(target)
    newest = current_revision(older)
    downgrade(older, "-1")
    assert current_revision(older) != newest
    upgrade(older)
    with closing(Store.open(older)) as store:
        there.store = store
        asyncio.run(there.restart())
        asyncio.run(until(there, lambda: at(there).state == S.COMPLETED, "the newer engine ends it"))
        assert there.what_there_is()["weights"] == [{"b": 100}] * 2


def test_a_refusal_is_a_sentence_when_nothing_can_be_returned_to(there: Room) -> None:
    asyncio.run(live(there))
    with pytest.raises(AirbossError, match="no earlier good release"):
        asyncio.run(there.roll_back())
