"""What stops a rollout that is not evidence, the ways out of it, and what never stops a rollback. Pure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine.rollouts.adopting import adopted
from engine.rollouts.by_hand import apply_verb
from engine.rollouts.effects import Route, Scale
from engine.rollouts.hindrance import OUTAGE_S, STUCK_AFTER
from engine.rollouts.machine import next_move
from engine.rollouts.values import Facts, ReplicaFacts, RolloutNow, StepSpec, Trouble
from engine.rollouts.verdict import Verdict
from engine.verbs import rollout_refusal
from state.words import Conflict, PauseReason, RolloutState, Unreachable, VerdictKind

S = RolloutState
STEPS = (StepSpec("weight", 25), StepSpec("approval", 1), StepSpec("weight", 100))
OURS = {"charlm-2": 25, "charlm-1": 75}
FOREIGN = {"charlm-2": 60, "charlm-1": 40}
FAIL = Verdict(VerdictKind.FAIL, "bad", guard="errors")
PASS = Verdict(VerdictKind.PASS, "clean")
REFUSED = Trouble(STUCK_AFTER, 10, is_outage=False, says="25 % to charlm-2: refused")


def rollout(state: S, step: int = 0, **more: object) -> RolloutNow:
    return replace(RolloutNow("ro-1", state, step, STEPS, "charlm-1", "charlm-2"), **more)  # type: ignore[arg-type]


def facts(**more: object) -> Facts:
    world = Facts(state_s=1, step_s=1, stable=ReplicaFacts(1), canary=ReplicaFacts(1), weights=OURS, known=(OURS,))
    return replace(world, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("state", [S.STEP_APPLYING, S.STEP_BAKING, S.AWAITING_PROMOTION, S.PROMOTING, S.VERIFYING])
def test_weights_of_a_foreign_hand_pause_it_and_say_whose_are_whose(state: S) -> None:
    move = next_move(rollout(state), facts(weights=FOREIGN, verdict=PASS))
    assert (move.state, move.pause_reason, move.resume_state) == (S.PAUSED, PauseReason.DRIFT, state)
    assert "60 % charlm-2, 40 % charlm-1, where ro-1 set 75 % charlm-1, 25 % charlm-2" in move.message


@pytest.mark.parametrize("weights", [None, {}, OURS, {"charlm-1": 100}, {"charlm-1": 90, "charlm-2": 10}])
def test_what_it_set_before_and_a_gateway_that_lost_it_are_no_foreign_hand(weights: dict[str, int] | None) -> None:
    move = next_move(rollout(S.STEP_APPLYING), facts(weights=weights, known=({"charlm-1": 90, "charlm-2": 10}, OURS)))
    assert move.state in (S.STEP_APPLYING, S.STEP_BAKING)


def test_a_fail_outranks_a_foreign_hand_and_a_hold_silences_both() -> None:
    assert next_move(rollout(S.STEP_BAKING), facts(weights=FOREIGN, verdict=FAIL)).state is S.ROLLING_BACK
    held = facts(weights=FOREIGN, verdict=FAIL, is_held=True)
    assert next_move(rollout(S.STEP_BAKING), held).state is S.STEP_BAKING


def test_resuming_after_drift_sets_its_own_weights_again_and_judges_anew() -> None:
    paused = rollout(S.PAUSED, resume_state=S.STEP_BAKING, pause_reason=PauseReason.DRIFT)
    move = apply_verb(paused, "rollout.resume", "user:ann")
    assert (move.state, move.restarts_step) == (S.STEP_APPLYING, True)
    again = rollout(S.STEP_APPLYING, pause_reason=move.pause_reason)
    assert next_move(again, facts(weights=FOREIGN)).effects == (Route("charlm-1", "charlm-2", 25),)


def test_a_hand_that_sets_the_weights_back_each_time_makes_it_stuck() -> None:
    again = rollout(S.STEP_APPLYING, pause_reason=PauseReason.DRIFT)
    fights = replace(REFUSED, says="25 % to charlm-2 was set, and reads back otherwise")
    move = next_move(again, facts(weights=FOREIGN, trouble=fights))
    assert (move.state, move.resume_state) == (S.STUCK, S.STEP_APPLYING)
    assert "reads back otherwise" in move.message


@pytest.mark.parametrize(
    ("trouble", "state", "reason"),
    [
        (replace(REFUSED, attempts=STUCK_AFTER - 1), S.STEP_APPLYING, ""),
        (REFUSED, S.STUCK, ""),
        (replace(REFUSED, is_outage=True, attempts=99), S.STEP_APPLYING, ""),
        (replace(REFUSED, is_outage=True, since_s=OUTAGE_S), S.PAUSED, PauseReason.ADAPTER_DOWN),
        (replace(REFUSED, is_capacity=True), S.PAUSED, PauseReason.CAPACITY),
    ],
)
def test_effects_that_fail_are_tried_again_then_pause_or_get_stuck(trouble: Trouble, state: S, reason: str) -> None:
    there = facts(weights={"charlm-1": 100}, trouble=trouble)
    move = next_move(rollout(S.STEP_APPLYING), there)
    assert (move.state, move.pause_reason) == (state, reason)


def test_case_45_a_model_that_loads_for_twelve_minutes_is_no_failure_within_its_policys_deadline() -> None:
    loads = facts(canary=ReplicaFacts(0), state_s=12 * 60, weights={"charlm-1": 100})
    assert next_move(rollout(S.PREPARING, prepare_timeout_s=15 * 60), loads).state is S.PREPARING
    assert next_move(rollout(S.PREPARING), loads).state is S.ROLLING_BACK, "the default is ten minutes"


def test_nothing_of_it_stops_a_rollback() -> None:
    there = facts(weights=FOREIGN, trouble=replace(REFUSED, attempts=500), verdict=FAIL, is_frozen=True, is_held=True)
    move = next_move(rollout(S.ROLLING_BACK), there)
    assert (move.state, move.effects) == (S.ROLLING_BACK, (Route("charlm-1", None, 0, reverts=True),))


def test_a_stuck_rollout_may_be_adopted_or_rolled_back_and_nothing_else() -> None:
    may = {v for v in ("rollback", "rollout.abort", "rollout.adopt", "rollout.promote", "rollout.promote_full",
                       "rollout.weight", "rollout.pause", "rollout.resume", "rollout.retry")
           if rollout_refusal(v, S.STUCK) is None}  # fmt: skip
    assert may == {"rollback", "rollout.abort", "rollout.adopt"}


def test_adopting_goes_on_from_what_is_there() -> None:
    stuck = rollout(S.STUCK)
    assert adopted(stuck, FOREIGN, "ann").weight == 60
    assert adopted(stuck, {"charlm-1": 100, "charlm-2": 0}, "ann").move.state is S.ROLLING_BACK  # type: ignore[union-attr]
    assert adopted(stuck, {"charlm-2": 100}, "ann").move.state is S.PROMOTING  # type: ignore[union-attr]
    gone = adopted(stuck, {"charlm-0": 100}, "ann")
    assert gone.stable == "charlm-0" and gone.move is not None and gone.move.state is S.CANCELLED


@pytest.mark.parametrize(
    ("weights", "step"), [({"charlm-0": 20, "charlm-1": 60, "charlm-2": 20}, 0), ({}, 0), (FOREIGN, 1)]
)
def test_a_split_of_three_is_never_adopted_nor_an_approval_gate_passed_by_it(
    weights: dict[str, int], step: int
) -> None:
    with pytest.raises(Conflict, match="cannot go on from") as refused:
        adopted(rollout(S.STUCK, step), weights, "ann")
    assert "rollback rollout/ro-1" in refused.value.hint


def test_nothing_is_adopted_unseen() -> None:
    with pytest.raises(Unreachable):
        adopted(rollout(S.STUCK), None, "ann")


def test_a_partly_warm_stable_gets_its_replicas_before_the_traffic_while_the_other_answers() -> None:
    back = rollout(S.ROLLING_BACK, replicas=4)
    half = facts(weights={"charlm-2": 100}, stable=ReplicaFacts(2))
    assert next_move(back, half).effects == (Scale("charlm-1", 4),)
    assert next_move(back, replace(half, state_s=601)).effects == (Route("charlm-1", None, 0, reverts=True),)
    dead = replace(half, canary=ReplicaFacts(0, crash_loop="5 deaths"))
    assert next_move(back, dead).effects == (Route("charlm-1", None, 0, reverts=True),)
    canary = facts(weights={"charlm-1": 95, "charlm-2": 5}, stable=ReplicaFacts(3))
    assert next_move(back, canary).effects == (Route("charlm-1", None, 0, reverts=True),), "5 % need one replica"


def test_a_gateway_that_lost_a_promoted_route_gets_it_back_as_stable() -> None:
    move = next_move(rollout(S.VERIFYING, 2, was_promoted=True), facts(weights={"charlm-1": 100}))
    assert move.effects == (Route("charlm-2", None, 0, promotes=True),)


def test_a_rollout_that_is_superseded_ends_so_and_its_release_is_not_rejected() -> None:
    given_up = rollout(S.ROLLING_BACK, successor="charlm-3")
    move = next_move(given_up, facts(weights={"charlm-1": 100}))
    assert move.state is S.SUPERSEDED
    assert [e.move for e in move.effects if hasattr(e, "move")] == ["withdraw"]
    assert "charlm-3 comes next" in move.message


LATE = 601.0


@pytest.mark.parametrize("state", [S.STEP_APPLYING, S.PROMOTING])
@pytest.mark.parametrize("weights", [{"charlm-1": 100}, OURS])
def test_replicas_that_are_gone_and_do_not_come_back_in_time_pause_it_for_capacity(
    state: S, weights: dict[str, int]
) -> None:
    gone = facts(canary=ReplicaFacts(0), weights=weights, known=(OURS,), state_s=599.0)
    here = rollout(state, 2, replicas=2)
    waits = next_move(here, gone)
    assert (waits.state, waits.effects) == (state, (Scale("charlm-2", 2),))
    move = next_move(here, replace(gone, state_s=LATE))
    assert (move.state, move.pause_reason, move.resume_state) == (S.PAUSED, PauseReason.CAPACITY, state)
    assert "0 of 2 replica(s) of charlm-2 answer" in move.message and "within 10 min" in move.message
    assert next_move(here, replace(gone, state_s=LATE, is_held=True)).state is state, "a hold stops that too"
    looping = replace(gone, state_s=LATE, canary=ReplicaFacts(0, crash_loop="5 deaths"))
    assert next_move(here, looping).state is S.ROLLING_BACK, "a release that keeps dying is another matter"


def test_a_baseline_that_does_not_come_back_in_time_pauses_it_too() -> None:
    here = rollout(S.STEP_APPLYING, has_baseline=True)
    gone = facts(weights={"charlm-1": 100}, baseline=ReplicaFacts(0), state_s=599.0)
    assert next_move(here, gone).effects == (Scale("charlm-1", 1, "baseline"),)
    move = next_move(here, replace(gone, state_s=LATE))
    assert (move.state, move.pause_reason) == (S.PAUSED, PauseReason.CAPACITY)
    assert "the baseline, charlm-1, answer" in move.message


def test_a_step_that_waited_too_long_begins_its_wait_anew_when_it_is_resumed() -> None:
    paused = rollout(S.PAUSED, resume_state=S.STEP_APPLYING, pause_reason=PauseReason.CAPACITY)
    move = apply_verb(paused, "rollout.resume", "user:ann")
    assert (move.state, move.restarts_step) == (S.STEP_APPLYING, True)
