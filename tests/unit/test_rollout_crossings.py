"""Two things at one instant: a way back that crosses an effect, a successor, an older target or a weight of a hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rollout_room import ANN, BAD, GOOD, NO_WORD, OneAlias, Processes, Room
from sqlmodel import Session, select

from adapters.local.left_alone import LEFT_ALONE_KEY, LeftAlone, left_alone
from adapters.ports import Backend, ReplicaSetSpec, Route
from engine.rollouts import records
from engine.rollouts.back.targets import verified_releases
from engine.rollouts.registry_queue import RegistryQueue
from state import ids
from state.models import Intent, Lease, Release, Rollout, RolloutStep
from state.store import Store
from state.words import Conflict, Lifecycle, RolloutState

S = RolloutState
BASELINE = """
[service.chat]
[environment.production]
protected = false
policy = "quick"
[policy.quick]
steps = [{ weight = 25 }, { weight = 100 }]
approvals = 0
baseline = true
"""
ROLLING = BASELINE.replace("steps = [{ weight = 25 }, { weight = 100 }]", 'strategy = "rolling"').replace(
    "baseline = true", "prepare_timeout = 60"
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store.open(tmp_path / "state.db")
    yield made
    made.close()


async def begun(room: Room, release: str, state: RolloutState) -> str:
    """A rollout of the release that has come so far."""
    room.counts.canary = NO_WORD
    rollout_id = (await room.deploy(release)).ref.removeprefix("rollout/")
    await room.until(rollout_id, state)
    return rollout_id


def release(room: Room, name: str) -> Release:
    return room.store.read_now(lambda s: s.get_one(Release, name))


class Slow(Processes):
    """While the first set is seen to, somebody aborts."""

    room: Room
    asked: list[tuple[str, int, str]]

    async def ensure(self, spec: ReplicaSetSpec, *, allow_faults: bool = False) -> None:
        self.asked.append((spec.release_id, spec.replicas, spec.role))
        await super().ensure(spec, allow_faults=allow_faults)
        if len(self.asked) == 1:
            (row,) = self.room.rows()
            await self.room.controller.verb(row.id, "rollback", ANN.name, "", None)


async def test_an_effect_of_before_the_way_back_is_not_carried_out_after_it_began(store: Store, tmp_path: Path) -> None:
    slow = Slow({"a": 1})
    slow.asked = []
    slow.room = room = Room(store, tmp_path, BASELINE, processes=slow)
    rollout_id = (await room.deploy("b")).ref.removeprefix("rollout/")
    for _ in range(3):
        await room.controller.tick(rollout_id)
        if slow.asked:
            break
    assert slow.asked == [("b", 1, "")], "the baseline's copies were meant before somebody aborted"
    assert room.row(rollout_id).state == S.ROLLING_BACK


async def test_what_was_found_bad_is_rejected_whoever_waits_for_its_place(store: Store, tmp_path: Path) -> None:
    room = Room(store, tmp_path)
    first = await begun(room, "b", S.STEP_BAKING)
    room.counts.canary = BAD
    await room.until(first, S.ROLLING_BACK)
    asked = asyncio.create_task(room.deploy("c", supersede=first))
    while not room.said("rollout.supersede"):
        await asyncio.sleep(0.01)
    await room.until(first, S.ROLLED_BACK)
    await room.look()
    second = (await asked).ref.removeprefix("rollout/")
    assert (room.row(second).to_release, room.row(second).from_release) == ("c", "a")
    assert release(room, "b").lifecycle == Lifecycle.REJECTED


async def test_a_rollback_does_not_return_to_the_release_it_comes_from(store: Store, tmp_path: Path) -> None:
    room = Room(store, tmp_path)
    going = await begun(room, "b", S.STEP_BAKING)
    kept = room.row(going).model_dump()
    lived = {"id": "ro-0", "state": S.COMPLETED, "created_at": 1, "finished_at": 1}
    room.store.write_now(lambda s: s.add(Rollout(**{**kept, **lived})))
    room.store.write_now(lambda s: s.add(RolloutStep(rollout_id="ro-0", idx=0, kind="weight", state="passed")))
    room.processes.broken.add("a")
    await room.controller.verb(going, "rollback", ANN.name, "", None)
    with pytest.raises(Conflict, match=f"b is what {going} returns from"):
        await room.ask("rollback", "service/chat", args={"to": "b"})
    assert room.row(going).state == S.ROLLING_BACK


async def test_a_batch_that_never_loads_is_no_verdict_on_its_release(store: Store, tmp_path: Path) -> None:
    room = Room(store, tmp_path, ROLLING)
    room.processes.broken.add("b")
    rollout_id = await begun(room, "b", S.STEP_APPLYING)
    await room.look()
    await room.ask("rollout.abort", f"rollout/{rollout_id}")
    await room.until(rollout_id, S.ROLLED_BACK)
    assert not any("b" in split for split in room.workers.splits), "it met no request"
    assert (release(room, "b").lifecycle, release(room, "b").rejected_reason) == (Lifecycle.DEVELOPMENT, "")
    words = room.store.read_now(lambda s: [i.payload["move"] for i in s.exec(select(Intent)) if i.kind == "registry"])
    assert words == ["withdraw"], "the registry says what the store says"
    await room.deploy("b")


async def test_a_batch_has_its_time_to_load_again_once_a_hold_has_ended(store: Store, tmp_path: Path) -> None:
    room = Room(store, tmp_path, ROLLING)
    room.processes.broken.add("b")
    rollout_id = await begun(room, "b", S.STEP_APPLYING)
    await room.ask("hold", "service/chat", args={"env": "production"})

    def an_hour_ago(session: Session) -> None:
        row = session.get_one(Rollout, rollout_id)
        row.state_since, row.state_mono = row.state_since - 3600, row.state_mono - 3600
        session.add(row)

    room.store.write_now(an_hour_ago)
    await room.look()
    await room.ask("unhold", "service/chat", args={"env": "production"})
    await room.look(2)
    assert room.row(rollout_id).state == S.STEP_APPLYING, "nothing could be started while it was held"
    room.store.write_now(lambda s: [setattr(one, "ends_at", one.ends_at - 61) for one in s.exec(select(Lease))])
    await room.look()
    assert room.row(rollout_id).state == S.ROLLING_BACK
    assert "b was not ready within 60 s" in room.row(rollout_id).message


async def test_a_batch_that_met_traffic_is_rejected_with_what_was_found(store: Store, tmp_path: Path) -> None:
    room = Room(store, tmp_path, ROLLING)
    rollout_id = await begun(room, "b", S.STEP_BAKING)
    await room.ask("rollout.abort", f"rollout/{rollout_id}")
    await room.until(rollout_id, S.ROLLED_BACK)
    assert release(room, "b").lifecycle == Lifecycle.REJECTED
    assert room.store.read_now(lambda s: verified_releases(s, "chat", "production")) == []


async def test_a_weight_by_hand_does_not_wipe_out_a_fail_of_the_same_instant(store: Store, tmp_path: Path) -> None:
    room = Room(store, tmp_path)
    rollout_id = await begun(room, "b", S.STEP_BAKING)
    room.counts.canary = BAD
    with pytest.raises(Conflict, match="rolls back at this instant"):
        await room.ask("rollout.weight", f"rollout/{rollout_id}", args={"weight": 40})
    assert room.row(rollout_id).state == S.ROLLING_BACK


async def test_traffic_of_a_foreign_release_that_runs_elsewhere_is_not_adopted(store: Store, tmp_path: Path) -> None:
    room = Room(store, tmp_path)
    rollout_id = await begun(room, "b", S.STEP_BAKING)
    room.workers.by_hand({"c": 100}, revision=90)
    await room.until(rollout_id, S.PAUSED)
    with pytest.raises(Conflict, match="no replica of it that runs here answers"):
        await room.ask("rollout.adopt", f"rollout/{rollout_id}")


async def test_an_alias_that_waited_for_another_hand_is_not_given_to_what_was_rejected_since(
    store: Store, tmp_path: Path
) -> None:
    room, registry = Room(store, tmp_path), OneAlias()
    for version, name in enumerate("ab", start=1):
        room.store.write_now(lambda s, n=name, v=version: setattr(s.get_one(Release, n), "model_version", str(v)))

    async def answers() -> Any:
        return registry

    queue = RegistryQueue(store, answers, lambda ref, said: None)
    rollout_id = await begun(room, "b", S.STEP_BAKING)
    room.counts.canary = GOOD
    await room.until(rollout_id, S.VERIFYING)
    await queue._turn()
    assert "somebody moved it" in room.row(rollout_id).registry_sync
    await room.ask("rollout.abort", f"rollout/{rollout_id}")
    await room.until(rollout_id, S.ROLLED_BACK)
    registry.has["champion"] = "1"
    room.store.write_now(
        lambda s: [setattr(i, "outcome", {**i.outcome, "retry_at": 0.0}) for i in s.exec(select(Intent))]
    )
    await queue._turn()
    assert (registry.has, room.row(rollout_id).registry_sync) == ({"champion": "1"}, "ok")


async def test_a_way_back_is_served_where_a_restore_had_left_the_traffic_alone(store: Store, tmp_path: Path) -> None:
    room = Room(store, tmp_path, processes=Processes({"a": 1, "b": 1}))
    back = Route("chat", "production", "local", "ro-1", (Backend("stable", "a", 100, ()),), 0.0, 0.0)
    await room.router.publish()
    room.workers.by_hand({"b": 100}, revision=9)
    (served,) = room.workers.have[0]["routes"]
    kept = {"chat@production": {"recorded": {"a": 100}, "route": served}}
    room.store.write_now(lambda s: ids.put(s, LEFT_ALONE_KEY, json.dumps(kept)))
    room.router.left_alone = {("chat", "production"): LeftAlone({"a": 100}, served)}
    await room.router.recover()
    await room.router.publish()
    assert room.weights() == {"b": 100}, "nobody has decided"
    await room.router.apply(back)
    assert room.weights() == {"a": 100}
    assert room.store.read_now(left_alone) == {}, "nor does the next engine leave it alone"


async def test_a_way_back_is_not_refused_because_the_rollout_moved_at_the_same_instant(
    store: Store, tmp_path: Path
) -> None:
    room = Room(store, tmp_path)
    rollout_id = await begun(room, "b", S.STEP_BAKING)
    room.counts.canary = (5, 0)
    shown = await room.store.read(lambda s: records.opened(s, rollout_id))
    assert shown is not None
    await room.ask("rollout.pause", f"rollout/{rollout_id}")
    with pytest.raises(Conflict, match="moved") as refused:
        await room.controller.verb(rollout_id, "rollout.promote", "user:ann", "", None, shown)
    assert refused.value.code == "revision_moved"
    await room.controller.verb(rollout_id, "rollback", "user:ann", "", shown.revision, shown)
    await room.until(rollout_id, S.ROLLED_BACK)
    assert room.weights() == {"a": 100}
    with pytest.raises(Conflict, match="nothing to return from"):
        await room.controller.verb(rollout_id, "rollback", "user:ann", "", None, shown)
