"""Approvals: of one plan, by other people, in time; and the glass that may be broken instead."""

from __future__ import annotations

from typing import Any

import pytest

from engine.api.views.people import gate_view, glass_views
from engine.api.views.rollouts import rollout_view
from engine.observe.conditions import Facts
from engine.observe.facts import glass_facts
from engine.observe.rules import firing
from engine.operations import approving
from state.models import Rollout
from state.words import Conflict, Denied, RolloutState, UsageError


def ref(rollout_id: str) -> str:
    return f"rollout/{rollout_id}"


async def test_as_many_different_people_as_the_policy_says_must_approve(office: Any) -> None:
    name = await office.deploy()
    assert office.row(name).state == RolloutState.AWAITING_APPROVAL
    await office.ask("lea", "rollout.approve", ref(name))
    with pytest.raises(Conflict, match="lea has said approve to this plan of ro-1 already"):
        await office.ask("lea", "rollout.approve", ref(name))
    await office.tick(name)
    assert office.row(name).state == RolloutState.AWAITING_APPROVAL
    done = await office.ask("leo", "rollout.approve", ref(name))
    assert "(2 of 2 approvals)" in done.message
    await office.tick(name)
    assert office.row(name).state == RolloutState.PREPARING


@pytest.mark.parametrize(
    ("who", "why"),
    [
        ("root", "uid 0 is nobody in particular"),
        ("robot", "shared account"),
        ("olga", "takes the role approver"),
        ("vera", "takes the role approver"),
    ],
)
async def test_who_may_not_approve_is_told_why(office: Any, who: str, why: str) -> None:
    name = await office.deploy()
    with pytest.raises(Denied, match=why) as denied:
        await office.ask(who, "rollout.approve", ref(name))
    assert denied.value.exit == 7


async def test_nobody_approves_what_they_began_nor_what_their_timer_began(office: Any) -> None:
    own = await office.deploy("lea")
    with pytest.raises(Denied, match="lea began ro-1, and lea cannot approve it too"):
        await office.ask("lea", "rollout.approve", ref(own))
    await office.ask("lea", "rollout.abort", ref(own))
    timers = await office.deploy("ci")
    with pytest.raises(Denied, match="ro-2 was begun by ci, whose owner is lea"):
        await office.ask("lea", "rollout.approve", ref(timers))
    assert (await office.ask("leo", "rollout.approve", ref(timers))).changed


async def test_an_open_environment_lets_its_author_approve(office: Any) -> None:
    name = await office.deploy("olga", env="dev")
    assert (await office.ask("olga", "rollout.approve", ref(name))).changed


async def test_a_plan_that_changes_voids_what_was_approved(office: Any) -> None:
    name = await office.deploy()
    await office.ask("lea", "rollout.approve", ref(name))
    before = office.store.read_now(lambda s: gate_view(s, s.get_one(Rollout, name)))
    policy = office.row(name).policy
    office.change(name, policy={**policy, "steps": [{"kind": "weight", "value": 100.0}]})
    after = office.store.read_now(lambda s: gate_view(s, s.get_one(Rollout, name)))
    assert after.plan != before.plan
    assert (before.approvals, after.approvals, [s.is_void for s in after.said]) == (1, 0, [True])
    shown = await office.ask("leo", "rollout.approve", ref(name), dry_run=True)
    assert any("user:lea approved an earlier plan" in warning for warning in shown.plan.warnings)
    await office.ask("leo", "rollout.approve", ref(name))
    await office.tick(name)
    assert office.row(name).state == RolloutState.AWAITING_APPROVAL
    await office.ask("lea", "rollout.approve", ref(name))
    await office.tick(name)
    assert office.row(name).state == RolloutState.PREPARING


async def test_an_approval_can_be_given_for_one_plan_alone(office: Any) -> None:
    name = await office.deploy()
    shown = await office.ask("lea", "rollout.approve", ref(name), dry_run=True)
    facts = {line.field: line.after for line in shown.plan.lines}
    assert facts["begun by"] == "user:olga: because"
    assert facts["steps"] == "5 % → 25 % → approval → 100 %"
    assert facts["approvals"] == "1 of 2"
    assert (shown.revision, facts["release"]) == (2, "charlm-2 (sha256 222222222222)")
    with pytest.raises(Conflict, match="it has changed since it was looked at"):
        await office.ask("lea", "rollout.approve", ref(name), args={"plan": "0" * 12})
    with pytest.raises(Conflict, match="shown 1"):
        await office.ask("lea", "rollout.approve", ref(name), expect_revision=1)
    assert (await office.ask("lea", "rollout.approve", ref(name), args={"plan": facts["plan"]})).changed


async def test_one_no_is_enough_and_says_why(office: Any) -> None:
    name = await office.deploy()
    with pytest.raises(UsageError, match="takes a reason"):
        await office.ask("lea", "rollout.reject", ref(name), reason=" ")
    await office.ask("lea", "rollout.approve", ref(name))
    await office.ask("leo", "rollout.reject", ref(name), reason="not on Friday")
    await office.tick(name)
    assert office.row(name).state == RolloutState.CANCELLED
    assert ("user:leo", "rollout.reject") in office.audit()


async def test_a_plan_nobody_approves_in_time_is_cancelled(office: Any) -> None:
    name = await office.deploy()
    row = office.row(name)
    office.change(name, state_mono=row.state_mono - 3601, state_since=row.state_since - 3601)
    await office.tick(name)
    assert office.row(name).state == RolloutState.CANCELLED
    assert office.row(name).message == "nobody approved it within 60 min"


async def test_a_gate_in_the_middle_counts_what_is_said_there(office: Any) -> None:
    name = await office.deploy()
    for who in ("lea", "leo"):
        await office.ask(who, "rollout.approve", ref(name))
    office.change(name, state=RolloutState.STEP_BAKING.value, step=2)
    gate = office.store.read_now(lambda s: gate_view(s, s.get_one(Rollout, name)))
    assert (gate.at, gate.needed, gate.approvals) == ("step 3", 1, 0)
    await office.ask("lea", "rollout.approve", ref(name))
    await office.tick(name)
    assert (office.row(name).state, office.row(name).step) == (RolloutState.STEP_APPLYING, 3)


async def test_broken_glass_stands_for_all_approvals_and_stays_flagged(office: Any) -> None:
    name = await office.deploy("lea")
    with pytest.raises(UsageError, match="takes a reason"):
        await office.ask("lea", "rollout.approve", ref(name), break_glass=True, reason="")
    with pytest.raises(UsageError, match="service's name"):
        await office.ask("lea", "rollout.approve", ref(name), break_glass=True, confirm_name="")
    await office.ask("lea", "rollout.approve", ref(name), break_glass=True, reason="incident 12")
    await office.tick(name)
    assert office.row(name).state == RolloutState.PREPARING
    (broken,) = office.store.read_now(glass_views)
    assert "2 more approval(s)" in broken.passed and "the second person" in broken.passed
    (alert,) = [f for f in firing(Facts(1.0, glasses=office.store.read_now(glass_facts))) if f.name == "BreakGlass"]
    assert "incident 12" in alert.summary and "airboss break-glass ack 1" in alert.summary
    view = office.store.read_now(lambda s: rollout_view(s, office.config, s.get_one(Rollout, name), whole=True))
    assert [g.by for g in view.glass] == ["user:lea"]

    with pytest.raises(Denied, match="somebody else must look"):
        await office.ask("lea", "glass.ack", "glass/1")
    with pytest.raises(Denied, match="uid 0"):
        await office.ask("root", "glass.ack", "glass/1")
    with pytest.raises(Denied, match="approver"):
        await office.ask("olga", "glass.ack", "glass/1")
    assert office.store.read_now(glass_facts)
    await office.ask("leo", "glass.ack", "glass/1", reason="seen")
    assert office.store.read_now(glass_facts) == ()
    with pytest.raises(Conflict, match="user:leo has acknowledged it already"):
        await office.ask("ana", "glass.ack", "glass/1")
    assert [a for a in office.audit() if a[1].startswith("glass")] == [
        ("user:lea", "glass.break"),
        ("user:leo", "glass.ack"),
    ]


async def test_nothing_in_the_way_breaks_no_glass(office: Any) -> None:
    name = await office.deploy("olga", env="dev")
    await office.ask("olga", "rollout.approve", ref(name))
    await office.tick(name)
    office.change(name, state=RolloutState.STEP_BAKING.value)
    await office.ask("olga", "rollout.promote", ref(name), break_glass=True)
    assert office.store.read_now(glass_views) == ()


async def test_a_verb_without_glass_says_so(office: Any) -> None:
    name = await office.deploy()
    with pytest.raises(UsageError, match=r"rollout\.pause has no glass"):
        await office.ask("olga", "rollout.pause", ref(name), break_glass=True)


async def test_skipping_every_gate_takes_a_second_person_too(office: Any) -> None:
    name = await office.deploy("lea")
    office.change(name, state=RolloutState.STEP_BAKING.value)
    with pytest.raises(Denied, match="lea cannot promote full it too"):
        await office.ask("lea", "rollout.promote_full", ref(name))
    assert (await office.ask("leo", "rollout.promote_full", ref(name))).changed


async def test_what_moved_on_while_a_person_pressed_is_not_approved_at_its_next_gate(
    office: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = await office.deploy()
    really = approving.approval_plan

    def and_then_it_moves(*given: Any) -> Any:
        office.change(name, state=RolloutState.STEP_BAKING.value, step=2)  # the approval in the middle
        return really(*given)

    monkeypatch.setattr(approving, "approval_plan", and_then_it_moves)
    with pytest.raises(Conflict, match="has moved since it was read: it is step_baking"):
        await office.ask("lea", "rollout.approve", f"rollout/{name}")
    assert ("user:lea", "rollout.approve") not in office.audit()


async def test_no_weight_by_hand_goes_past_an_approval_that_is_still_to_come(office: Any) -> None:
    name = await office.deploy()
    office.change(name, state=RolloutState.STEP_BAKING.value, step=0)
    with pytest.raises(
        Denied, match="an approval is still to come, and the steps before it give 25 % at most"
    ) as refused:
        await office.ask("olga", "rollout.weight", ref(name), args={"weight": 26})
    assert refused.value.code == "before_the_gate"
    await office.ask("olga", "rollout.weight", ref(name), args={"weight": 25})
    assert office.row(name).policy["steps"][0]["value"] == 25


async def test_a_weight_by_hand_is_free_once_the_last_approval_was_given(office: Any) -> None:
    name = await office.deploy()
    office.change(name, state=RolloutState.STEP_BAKING.value, step=3)
    await office.ask("olga", "rollout.weight", ref(name), args={"weight": 60})
    assert office.row(name).policy["steps"][3]["value"] == 60
