"""An alias that another hand moved in the registry is found, told once, alerted while it lasts, and never put back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rollout_room import GOOD, NO_WORD, OneAlias, Room

from adapters.ports import ModelVersion
from engine.observe.conditions import Facts
from engine.observe.rules import firing
from engine.registry_watch import AliasWatch, Left, left_at, wanted_after
from engine.rollouts.registry_queue import RegistryQueue
from state.models import Intent, Release
from state.store import Store
from state.words import RolloutState, Unreachable


class Kept(OneAlias):
    """A registry that knows who made version 9."""

    is_down = False

    def aliases(self, model_name: str) -> dict[str, str]:
        if self.is_down:
            raise Unreachable("gone")
        return super().aliases(model_name)

    def version(self, model_name: str, version: str) -> ModelVersion:
        return ModelVersion(model_name, version, "", "", {"airboss.created_by": "user:mallory"})


class Watched:
    """A rollout of `b` (version 2) after `a` (version 1), with the registry's queue and the watch."""

    def __init__(self, store: Store, root: Path) -> None:
        self.room, self.registry, self.now = Room(store, root), Kept(), 60.0
        self.registry.has = {"champion": "1"}
        for version, name in enumerate("ab", start=1):
            store.write_now(lambda s, n=name, v=version: setattr(s.get_one(Release, n), "model_version", str(v)))
        self.queue = RegistryQueue(store, self._answers, lambda ref, said: None)
        self.watch = AliasWatch(
            store, self._answers, asyncio.to_thread, lambda: True, lambda ref, said: None, lambda: self.now
        )

    async def _answers(self) -> Any:
        return self.registry

    async def promoted(self) -> str:
        begun = await self.room.deploy("b")
        rollout_id = begun.ref.removeprefix("rollout/")
        self.room.counts.canary = GOOD
        await self.room.until(rollout_id, RolloutState.VERIFYING)
        self.room.counts.canary = NO_WORD
        return rollout_id

    def alerts(self) -> list[str]:
        return [f.summary for f in firing(Facts(0.0, drifts=self.watch.drifts)) if f.name == "RegistryDrift"]

    def told(self) -> list[dict[str, Any]]:
        return self.room.said("registry.external_alias_change")


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    store = Store.open(tmp_path / "state.db")
    yield Watched(store, tmp_path)
    store.close()


async def test_a_champion_that_another_hand_moved_is_alerted_until_it_is_right_and_never_put_back(
    watched: Watched,
) -> None:
    await watched.promoted()
    await watched.watch.turn()
    assert watched.alerts() == [], "our own move is still to be made"
    await watched.queue._turn()
    await watched.watch.turn()
    assert watched.alerts() == []
    watched.registry.has["champion"] = "9"
    watched.now = 90.0
    for _ in range(3):
        await watched.watch.turn()
    (said,) = watched.alerts()
    assert "champion of m points at version 9" in said and "was left at version 2" in said
    assert "between 00:01:00 and 00:01:30" in said and "version 9 was made by user:mallory" in said
    assert [(d["expected"], d["found"]) for d in watched.told()] == [("2", "9")], "told once"
    assert watched.registry.has["champion"] == "9", "not fought"
    assert watched.room.weights() == {"b": 100}
    watched.registry.is_down = True
    with pytest.raises(Unreachable):
        await watched.watch.turn()
    assert len(watched.alerts()) == 1, "no answer is no all-clear"
    watched.registry.is_down = False
    watched.registry.has["champion"] = "2"
    await watched.watch.turn()
    assert watched.alerts() == []


async def test_a_champion_that_vanished_with_its_version_is_drift_too(watched: Watched) -> None:
    await watched.promoted()
    await watched.queue._turn()
    del watched.registry.has["champion"]
    await watched.watch.turn()
    assert "champion of m is gone" in watched.alerts()[0]


def test_what_we_left_is_folded_from_the_moves_that_were_made() -> None:
    canary = ("challenger", {"challenger": "2"})
    assert left_at([canary]) == {"challenger": "2"}
    promoted = ("promote", {"champion": "2", "previous-champion": "1"})
    assert left_at([canary, promoted]) == {"champion": "2", "previous-champion": "1"}
    assert left_at([canary, ("reject", {"rejected": "2", "champion": "1"})]) == {"champion": "1"}
    back = ("reject", {"rejected": "2", "champion": "1"})
    assert left_at([canary, promoted, back]) == {"champion": "1", "previous-champion": "1"}
    assert left_at([("withdraw", {"withdrawn": "3", "champion": None})]) == {}
    assert left_at([canary, ("Archived", {"version": "2", "stage": "Archived"})]) == {}
    assert left_at([("reject", {"rejected": "2", "champion": "1"})], before={"challenger": "2"}) == {"champion": "1"}
    assert left_at([("Production", {"stage": "Production"})]) == {}


def test_moves_that_cannot_change_any_more_are_read_once(watched: Watched) -> None:
    def made(number: int, move: str, state: str, **outcome: str) -> Intent:
        release = "b" if move != "Archived" else "a"
        payload = {"kind": "registry", "move": move, "release_id": release}
        return Intent(
            id=number, key=str(number), kind="registry", payload=payload, state=state, outcome=outcome, created_at=0
        )

    def read(before: Left) -> tuple[Left, dict[str, dict[str, str]]]:
        return watched.room.store.read_now(lambda s: wanted_after(s, before))

    def write(*rows: Intent) -> None:
        watched.room.store.write_now(lambda s: [s.merge(row) for row in rows])

    write(made(1, "challenger", "done", challenger="2"), made(2, "promote", "done", champion="2"))
    first, wanted = read(Left())
    assert wanted == {"m": {"champion": "2"}} and first.upto == 2
    write(made(3, "reject", "pending"), made(4, "challenger", "done", challenger="2"))
    second, wanted = read(first)
    assert wanted == {} and second == first, "one is under way: nothing is said of the model, and it is read again"
    write(made(3, "reject", "done", rejected="2", champion="1"))
    third, wanted = read(second)
    assert wanted == {"m": {"champion": "1", "challenger": "2"}} and third.upto == 4
    assert (third, wanted) == read(third) == read(Left())
