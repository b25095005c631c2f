"""Rolling and swap where something goes wrong on the way: a replica that died, a hold, a hand that skips the gates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rollout_room import ANN, GOOD, NO_WORD, Processes, Room

from adapters.ports import ReplicaStatus
from engine.rollouts import records
from engine.rollouts.by_hand import apply_verb
from engine.rollouts.effects import Route, Scale
from engine.rollouts.machine import next_move
from engine.rollouts.values import Facts, ReplicaFacts, RolloutNow, StepSpec
from state.store import Store
from state.words import RolloutState, Strategy

S = RolloutState
OLD, NEW = "chat-1", "chat-2"
THIRDS = tuple(StepSpec("weight", 100 * n // 3, replicas=n) for n in (1, 2, 3))
ROLLING = """
[service.chat]
replicas = 2
[environment.production]
protected = false
policy = "quick"
[policy.quick]
strategy = "rolling"
approvals = 0
auto_promote = false
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store.open(tmp_path / "state.db")
    yield made
    made.close()


def rolling(step: int, state: S = S.STEP_APPLYING, **more: object) -> RolloutNow:
    now = RolloutNow("ro-1", state, step, THIRDS, OLD, NEW, replicas=3, strategy=Strategy.ROLLING)
    return replace(now, **more)  # type: ignore[arg-type]


def facts(old: int, new: int, weight: int, **more: object) -> Facts:
    """So many of each that answer, and the new one's weight."""
    weights = {release: w for release, w in ((OLD, 100 - weight), (NEW, weight)) if w}
    there = Facts(1, 1, ReplicaFacts(old, alive=old), ReplicaFacts(new, alive=new), weights, known=(weights,))
    return replace(there, **more)  # type: ignore[arg-type]


def test_nothing_more_is_taken_away_while_replicas_of_the_batch_before_do_not_answer() -> None:
    r = rolling(1, surge=0, unavailable=1)
    died = facts(2, 0, 33, canary=ReplicaFacts(0, alive=1))
    assert next_move(r, died).effects == (Scale(NEW, 1),)
    assert next_move(r, facts(2, 1, 33)).effects == (Scale(OLD, 1),)
    late = replace(died, state_s=601.0)
    assert next_move(r, late).state is S.ROLLING_BACK


def test_the_last_old_replica_goes_once_its_traffic_has() -> None:
    r = rolling(2, surge=0, unavailable=1)
    assert next_move(r, facts(1, 2, 66)).effects == (Route(OLD, NEW, 100),)
    assert next_move(r, facts(1, 2, 100)).effects == (Scale(OLD, 0),)
    assert next_move(r, facts(0, 2, 100)).effects == (Scale(NEW, 3),)


def test_a_batch_waits_for_the_places_that_the_one_before_it_gave_away() -> None:
    r = rolling(1)
    assert next_move(r, facts(3, 1, 33)).effects == (Scale(OLD, 2),), "a hand moved on before they went"
    draining = facts(2, 1, 33, stable=ReplicaFacts(2, alive=3))
    assert next_move(r, draining).effects == (Scale(OLD, 2),), "never more than replicas + surge"
    assert next_move(r, facts(2, 1, 33)).effects == (Scale(NEW, 2),)


def test_what_gave_its_place_away_is_not_back_before_it_answers() -> None:
    back = rolling(0, S.ROLLING_BACK, surge=0, unavailable=1)
    gone = facts(2, 0, 0, stable=ReplicaFacts(2, alive=2))
    assert next_move(back, gone).effects == (Scale(OLD, 3), Scale(NEW, 0)), "its traffic had never moved"
    assert next_move(back, facts(3, 0, 0)).state is S.ROLLED_BACK
    late = replace(gone, state_s=601.0)
    assert next_move(back, late).state is S.ROLLED_BACK, "what answers carries it"
    nobody = replace(late, stable=ReplicaFacts(0))
    assert next_move(back, nobody).state is S.ROLLING_BACK, "and with nobody there it is never called done"


def test_a_hold_stops_a_batch_that_keeps_dying_too() -> None:
    dies = facts(3, 0, 0, canary=ReplicaFacts(0, crash_loop="5 deaths"), is_held=True)
    assert next_move(rolling(0), dies).state is S.STEP_APPLYING
    assert next_move(rolling(0), replace(dies, is_held=False)).state is S.ROLLING_BACK


def test_what_is_left_of_a_batch_is_not_taken_away_when_the_new_ones_have_died() -> None:
    baking = rolling(0, S.STEP_BAKING)
    died = facts(3, 0, 33)
    assert Scale(OLD, 2) not in next_move(baking, died).effects
    assert next_move(baking, facts(3, 1, 33)).effects == (Scale(OLD, 2),)


@pytest.mark.parametrize("stands", [S.PREPARING, S.STEP_APPLYING, S.STEP_BAKING])
def test_all_traffic_by_hand_still_makes_room_batch_by_batch(stands: S) -> None:
    paused = rolling(0, S.PAUSED, resume_state=stands)
    move = apply_verb(paused, "rollout.promote_full", "user:ann")
    assert (move.state, move.step) == (S.STEP_APPLYING, 1 if stands is S.STEP_BAKING else 0)
    assert move.skips_gates and "gates skipped" in move.message
    at_the_end = apply_verb(rolling(2, S.STEP_BAKING), "rollout.promote_full", "user:ann")
    assert (at_the_end.state, at_the_end.skips_gates) == (S.PROMOTING, False)


async def test_gates_that_a_hand_skips_are_skipped_to_the_end_and_no_process_is_started_beside(
    store: Store, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []

    class Counted(Processes):
        async def ensure(self, spec, *, allow_faults: bool = False) -> None:  # type: ignore[no-untyped-def]
            await super().ensure(spec, allow_faults=allow_faults)
            seen.append((self.there.get("a", 0), self.there.get("b", 0)))

    room = Room(store, tmp_path, ROLLING, processes=Counted({"a": 2}))
    room.counts.canary = NO_WORD
    rollout_id = (await room.deploy("b")).ref.removeprefix("rollout/")
    await room.until(rollout_id, S.STEP_BAKING)
    await room.controller.verb(rollout_id, "rollout.promote_full", ANN.name, "it is known good", None)
    await room.until(rollout_id, S.VERIFYING)
    assert max(a + b for a, b in seen) == 3 and min(a + b for a, b in seen) == 2
    assert room.weights() == {"b": 100}
    room.counts.canary = GOOD
    await room.until(rollout_id, S.COMPLETED)


async def test_a_replica_between_two_lives_still_holds_its_place(store: Store, tmp_path: Path) -> None:
    class Dead(Processes):
        is_wanted = True

        def replicas(self, service: str, env: str) -> list[ReplicaStatus]:
            return [
                replace(one, is_alive=False, is_wanted=self.is_wanted) if one.release_id == "b" else one
                for one in super().replicas(service, env)
            ]

    dead = Dead({"a": 2, "b": 1})
    room = Room(store, tmp_path, ROLLING, processes=dead)
    rollout_id = (await room.deploy("b")).ref.removeprefix("rollout/")
    seen = store.read_now(lambda s: records.opened(s, rollout_id))
    assert seen is not None
    there = await room.controller.world.replica_facts(seen, "b", probe=False)
    assert (there.ready, there.alive) == (0, 1), "its place starts it again: a swap must not load another beside it"
    dead.is_wanted = False
    assert (await room.controller.world.replica_facts(seen, "b", probe=False)).alive == 0


async def test_what_a_foreign_table_gives_traffic_is_not_stopped_under_it(store: Store, tmp_path: Path) -> None:
    room = Room(store, tmp_path, processes=Processes({"a": 1, "c": 1}))
    await room.router.publish()
    room.workers.by_hand({"c": 100}, revision=90)
    await room.controller.world.retire()
    assert room.processes.there["c"] == 1
    room.workers.by_hand({"a": 100}, revision=91)
    await room.controller.world.retire()
    assert room.processes.there["c"] == 0
