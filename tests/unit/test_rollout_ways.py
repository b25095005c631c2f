"""Ways out of a rollout under way, through the door for verbs: superseding, adopting, two at one instant, refusals."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rollout_room import BAD, GOOD, NO_WORD, OneAlias, Room
from sqlmodel import Session, select

from engine.api.views.standing import why_of
from engine.rollouts import records
from engine.rollouts.hindrance import STUCK_AFTER
from engine.rollouts.journal import RETRY_DONE_AFTER_S
from engine.rollouts.registry_queue import RegistryQueue
from engine.rollouts.values import Move
from state.models import Intent, Lease, Release, Rollout, RolloutStep
from state.store import Store
from state.words import Conflict, PauseReason, RolloutState, UsageError

S = RolloutState


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    store = Store.open(tmp_path / "state.db")
    yield Room(store, tmp_path)
    store.close()


async def baking(room: Room, release: str = "b") -> str:
    """A rollout whose first step is being judged."""
    begun = await room.deploy(release)
    rollout_id = begun.ref.removeprefix("rollout/")
    room.counts.canary = NO_WORD
    await room.until(rollout_id, S.STEP_BAKING)
    room.counts.canary = UNDECIDED
    return rollout_id


UNDECIDED = (5, 0)


async def test_case_56_a_new_release_mid_canary_goes_through_stable_and_is_shown_first(room: Room) -> None:
    first = await baking(room)
    assert room.weights() == {"a": 75, "b": 25}
    with pytest.raises(Conflict, match="is moving chat in production already") as refused:
        await room.deploy("c")
    assert f"--supersede {first}" in refused.value.hint
    shown = (await room.deploy("c", dry_run=True)).plan
    assert shown is not None
    assert (shown.lines[0].object, shown.lines[0].after) == (first, "superseded")
    assert any("never a split of three" in w for w in shown.warnings)

    asked = asyncio.create_task(room.deploy("c", supersede=first))
    await asyncio.sleep(0)
    row = await room.until(first, S.SUPERSEDED)
    assert "c comes next" in row.message
    second = (await asked).ref.removeprefix("rollout/")
    await room.until(second, S.STEP_BAKING)
    assert room.weights() == {"a": 75, "c": 25}
    assert room.workers.splits[room.workers.splits.index({"a": 75, "b": 25}) + 1] == {"a": 100}
    assert max(map(len, room.workers.splits)) == 2
    assert room.store.read_now(lambda s: s.get_one(Release, "b").rejected_reason) == "", "nothing was found against it"


async def test_what_waits_for_a_rollout_begins_after_a_crash_too_and_is_refused_by_name_in_a_freeze(room: Room) -> None:
    first = await baking(room)
    room.workers.refuses = "not now"
    asked = asyncio.create_task(room.deploy("c", supersede=first))
    while room.row(first).state != S.ROLLING_BACK:
        await asyncio.sleep(0.01)
    asked.cancel()
    room.start()
    room.workers.refuses = ""
    room.store.write_now(
        lambda s: s.add(Lease(name="freeze/production", kind="freeze", holder="bob", reason="launch", starts_at=0,
                              ends_at=4e9))
    )  # fmt: skip
    await room.until(first, S.SUPERSEDED)
    await room.look()
    assert [row.id for row in room.rows()] == [first], "a freeze began meanwhile"
    assert room.said("rollout.successor_refused") == [{"release": "c"}]
    assert room.weights() == {"a": 100}


async def test_one_that_has_not_begun_gives_way_at_once(room: Room) -> None:
    first = (await room.deploy("b")).ref.removeprefix("rollout/")
    second = (await room.deploy("c", supersede=first)).ref.removeprefix("rollout/")
    assert (room.row(first).state, room.row(second).state) == (S.SUPERSEDED, S.PLANNED)


@pytest.mark.parametrize("back", ["ro-99", "b"])
async def test_only_the_active_rollout_can_be_superseded_and_not_by_its_own_release(room: Room, back: str) -> None:
    first = await baking(room)
    with pytest.raises(Conflict):
        await (room.deploy("b", supersede=first) if back == "b" else room.deploy("c", supersede=back))
    assert room.row(first).state == S.STEP_BAKING


async def test_a_foreign_edit_pauses_it_and_resuming_or_adopting_goes_on(room: Room) -> None:
    rollout_id = await baking(room)
    room.workers.by_hand({"a": 40, "b": 60}, revision=90)
    row = await room.until(rollout_id, S.PAUSED)
    assert row.pause_reason == PauseReason.DRIFT and "60 % b, 40 % a" in row.message
    await room.ask("rollout.resume", f"rollout/{rollout_id}")
    await room.until(rollout_id, S.STEP_BAKING)
    assert room.weights() == {"a": 75, "b": 25}, "its own weights, over a table of a much newer revision"

    room.workers.by_hand({"a": 40, "b": 60}, revision=900)
    await room.until(rollout_id, S.PAUSED)
    shown = await room.ask("rollout.adopt", f"rollout/{rollout_id}", dry_run=True)
    assert shown.plan is not None and ("meant 25 %", "stays 60 %") in [(ln.before, ln.after) for ln in shown.plan.lines]
    await room.ask("rollout.adopt", f"rollout/{rollout_id}")
    await room.until(rollout_id, S.STEP_BAKING)
    await room.router.publish()
    assert room.weights() == {"a": 40, "b": 60}, "no later table brings the refused weights back"
    room.counts.canary = GOOD
    await room.until(rollout_id, S.COMPLETED)
    assert room.weights() == {"b": 100}


async def test_nothing_is_adopted_from_a_pause_that_is_no_drift(room: Room) -> None:
    rollout_id = await baking(room)
    await room.ask("rollout.pause", f"rollout/{rollout_id}")
    with pytest.raises(Conflict, match="nobody else's weights"):
        await room.ask("rollout.adopt", f"rollout/{rollout_id}")


async def test_a_gateway_that_refuses_each_time_makes_it_stuck_and_adopting_stable_ends_it(room: Room) -> None:
    room.workers.refuses = "field is owned by argo-cd"
    rollout_id = (await room.deploy("b")).ref.removeprefix("rollout/")
    for _ in range(STUCK_AFTER + 6):
        await room.look()
        room.store.write_now(_due)
    row = room.row(rollout_id)
    assert (row.state, row.resume_state) == (S.STUCK, S.STEP_APPLYING)
    assert "owned by argo-cd" in row.message and f"tried {STUCK_AFTER} times" in row.message
    for verb in ("rollout.promote", "rollout.resume", "rollout.pause", "rollout.weight"):
        with pytest.raises(Conflict, match="adopt"):
            await room.ask(verb, f"rollout/{rollout_id}", args={"weight": 30})
    assert {d["verb"] for d in room.said("rollout.refused")} == {
        "rollout.promote", "rollout.resume", "rollout.pause", "rollout.weight",
    }  # fmt: skip
    room.workers.refuses = ""
    await room.router.publish()
    room.workers.by_hand({"a": 100}, revision=50)
    await room.ask("rollout.adopt", f"rollout/{rollout_id}")
    await room.until(rollout_id, S.ROLLED_BACK)
    assert room.weights() == {"a": 100}


def _due(session: Session) -> None:
    """What waits to be tried again, or done again, is due."""
    for intent in session.exec(select(Intent)):
        intent.outcome = {**intent.outcome, "retry_at": 0.0}
        intent.done_at = (intent.done_at or 0.0) - RETRY_DONE_AFTER_S
        session.add(intent)


async def test_case_9_a_promotion_and_a_failing_verdict_at_one_instant_roll_back(room: Room) -> None:
    rollout_id = await baking(room)
    room.counts.canary = BAD
    with pytest.raises(Conflict, match="rolls back at this instant"):
        await room.ask("rollout.promote", f"rollout/{rollout_id}")
    assert room.row(rollout_id).state == S.ROLLING_BACK


async def test_case_9_the_rollback_wins_when_the_promotion_was_written_first(room: Room) -> None:
    rollout_id = await baking(room)
    room.counts.canary = BAD

    async def meanwhile() -> None:
        room.counts.canary, room.counts.meanwhile = UNDECIDED, None
        await room.ask("rollout.promote", f"rollout/{rollout_id}")

    room.counts.meanwhile = meanwhile  # pressed after the counts were read, and before what they say is written
    await room.controller.tick(rollout_id)
    assert [d["step"] for d in room.said("rollout.step_applying")] == [0, 1], "the promotion was first"
    assert room.row(rollout_id).state == S.ROLLING_BACK
    await room.until(rollout_id, S.ROLLED_BACK)


async def test_case_57_a_rollback_of_a_rollback_does_not_return_to_the_bad_release(room: Room) -> None:
    first = await baking(room)
    room.counts.canary = GOOD
    await room.until(first, S.COMPLETED)
    second = await baking(room, "c")
    room.counts.canary = GOOD
    await room.until(second, S.COMPLETED)
    done = await room.ask("rollback", "service/chat")
    await room.until(done.ref.removeprefix("rollout/"), S.ROLLED_BACK)
    assert room.weights() == {"b": 100}
    with pytest.raises(Conflict, match="no earlier good release"):
        await room.ask("rollback", "service/chat")
    with pytest.raises(Conflict, match="was rejected"):
        await room.ask("rollback", "service/chat", args={"to": "c"})


async def test_a_freeze_pauses_what_has_passed_and_its_end_lets_it_go_on(room: Room) -> None:
    rollout_id = await baking(room)
    room.store.write_now(
        lambda s: s.add(Lease(name="freeze/production", kind="freeze", holder="bob", reason="launch", starts_at=0,
                              ends_at=4e9))
    )  # fmt: skip
    room.counts.canary = GOOD
    row = await room.until(rollout_id, S.PAUSED)
    assert row.pause_reason == PauseReason.FREEZE
    room.store.write_now(lambda s: setattr(s.get_one(Lease, "freeze/production"), "ends_at", 1.0))
    await room.until(rollout_id, S.COMPLETED)


async def test_i12_a_pass_is_used_once(room: Room) -> None:
    rollout_id = await baking(room)
    room.counts.canary = GOOD
    await room.controller.tick(rollout_id)
    assert (room.row(rollout_id).state, room.row(rollout_id).step) == (S.STEP_APPLYING, 1)

    def again(session: Session) -> None:
        row = session.get_one(Rollout, rollout_id)
        row.state, row.step = S.STEP_BAKING, 0

    room.store.write_now(again)
    seen = room.store.read_now(lambda s: records.opened(s, rollout_id))
    assert seen is not None
    move = Move(S.STEP_APPLYING, 1, consumes_verdict=True)
    assert not room.store.write_now(lambda s: records.commit_move(s, seen, move))


async def test_a_hotfix_gives_a_bad_stable_no_share_and_is_judged_alone(room: Room) -> None:
    shown = (await room.deploy("b", dry_run=True)).plan
    assert shown is not None and any("`--hotfix --reason TEXT`" in w for w in shown.warnings), "a does not answer"
    with pytest.raises(UsageError, match="takes a reason"):
        await room.ask("deploy", "service/chat", args={"release": "b", "hotfix": True}, reason="")
    room.processes.there["a"] = 0
    rollout_id = (await room.deploy("b", hotfix=True)).ref.removeprefix("rollout/")
    await room.until(rollout_id, S.STEP_BAKING)
    assert room.weights() == {"b": 100}
    room.counts.canary = GOOD
    await room.until(rollout_id, S.COMPLETED)
    assert max(map(len, room.workers.splits)) == 1, "no user met the bad one beside it"


async def test_a_hold_is_of_one_service_with_its_owner_and_end(room: Room) -> None:
    rollout_id = await baking(room)
    await room.ask("hold", "service/chat", args={"until_s": 600})
    room.counts.canary = BAD
    await room.look(3)
    assert room.row(rollout_id).state == S.STEP_BAKING
    said = room.store.read_now(lambda s: why_of(s, room.config, s.get_one(Rollout, rollout_id), ""))
    assert said.startswith("Held by user:ann for 10 min more (test)")
    (lease,) = room.store.read_now(lambda s: list(s.exec(select(Lease))))
    assert lease.name == "hold/production/chat"
    assert room.store.read_now(lambda s: records.leases(s, "production", "hold", time.time(), "search")) == []
    await room.ask("unhold", f"rollout/{rollout_id}")
    await room.until(rollout_id, S.ROLLED_BACK)


async def test_case_57_a_rollback_to_what_cannot_be_started_is_sent_on_to_an_older_release(room: Room) -> None:
    for release in ("b", "c"):
        rollout_id = await baking(room, release)
        room.counts.canary = GOOD
        await room.until(rollout_id, S.COMPLETED)
    room.processes.broken.add("b")
    room.store.write_now(lambda s: lived_here(s, "a"))
    back = (await room.ask("rollback", "service/chat")).ref.removeprefix("rollout/")
    await room.look(3)
    assert (room.row(back).state, room.weights()) == (S.ROLLING_BACK, {"c": 100}), "capacity first: b never answers"
    await room.ask("rollback", "service/chat", args={"to": "a"})
    await room.until(back, S.ROLLED_BACK)
    assert room.weights() == {"a": 100}


def lived_here(session: Session, release: str) -> None:
    """The release was verified here once."""
    row = session.get_one(Rollout, "ro-1")
    session.add(
        Rollout(id="ro-0", service="chat", env="production", target="local", strategy="canary", to_release=release,
                state=S.COMPLETED, policy=row.policy, created_by="user:ann", created_at=1, state_since=1, finished_at=1)
    )  # fmt: skip
    session.flush()
    session.add(RolloutStep(rollout_id="ro-0", idx=0, kind="weight", weight=100, state="passed"))


async def test_case_44_a_bundle_that_disappears_after_approval_goes_back_before_any_traffic(room: Room) -> None:
    rollout_id = (await room.deploy("b")).ref.removeprefix("rollout/")
    room.processes.broken.add("b")
    room.store.write_now(lambda s: setattr(s.get_one(Release, "b"), "bundle_path", str(room.root / "gone")))
    row = await room.until(rollout_id, S.ROLLED_BACK)
    assert "its bundle is not at" in row.message
    assert not any("b" in split for split in room.workers.splits)


async def test_case_51_a_weight_that_is_not_read_back_is_not_baked(room: Room) -> None:
    rollout_id = (await room.deploy("b")).ref.removeprefix("rollout/")
    room.workers.lags = True
    await room.look(6)
    assert room.row(rollout_id).state == S.STEP_APPLYING, "one worker has the old table still"
    room.workers.lags = False
    for _ in range(3):
        room.store.write_now(_due)
        await room.look(2)
    assert room.row(rollout_id).state == S.STEP_BAKING


@pytest.mark.parametrize("moved_by_hand", [True, False])
async def test_cases_46_and_47_the_registry_never_holds_traffic_and_another_hands_alias_stands(
    room: Room, moved_by_hand: bool
) -> None:
    def numbered(session: Session) -> None:
        for version, name in enumerate("abc", start=1):
            session.get_one(Release, name).model_version = str(version)

    room.store.write_now(numbered)
    rollout_id = await baking(room)
    room.counts.canary = GOOD
    await room.until(rollout_id, S.COMPLETED)
    assert room.row(rollout_id).registry_sync == "pending", "46: the registry was away, and traffic moved"
    registry = OneAlias()
    if not moved_by_hand:
        registry.has = {"champion": "1"}

    async def answers() -> Any:
        return registry

    queue = RegistryQueue(room.store, answers, lambda ref, said: None)
    for _ in range(3):
        await queue._turn()
    row = room.row(rollout_id)
    if not moved_by_hand:
        assert (registry.has["champion"], row.registry_sync) == ("2", "ok")
        return
    assert registry.has["champion"] == "7", "47: not overwritten"
    assert "somebody moved it" in row.registry_sync
    assert len(room.said("registry.drift")) == 1, "said once"
    registry.has["champion"] = "1"
    room.store.write_now(_due)
    await queue._turn()
    assert (registry.has["champion"], room.row(rollout_id).registry_sync) == ("2", "ok"), "it heals by itself"
