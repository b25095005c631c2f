"""The rollout machine as a pure function: its table. Its invariants over random lives are in tests/property."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine.rollouts.by_hand import apply_verb
from engine.rollouts.effects import RegistryMove, Route, Scale, from_json, to_json
from engine.rollouts.machine import next_move
from engine.rollouts.values import Facts, ReplicaFacts, RolloutNow, StepSpec
from engine.rollouts.verdict import Verdict
from engine.verbs import ROLLOUT_VERBS, rollout_refusal
from state.words import Conflict, NoDataCause, PauseReason, RolloutState, Strategy, VerdictKind

S = RolloutState
STEPS = (StepSpec("weight", 25), StepSpec("weight", 50), StepSpec("weight", 100))
PASS = Verdict(VerdictKind.PASS, "clean")
FAIL = Verdict(VerdictKind.FAIL, "bad", guard="errors")
OPEN = Verdict(VerdictKind.INCONCLUSIVE, "not yet")
EXPIRED = Verdict(VerdictKind.INCONCLUSIVE, "too long", expired=True)
COMMON = Verdict(VerdictKind.INCONCLUSIVE, "both bad", common_mode=True)
NO_DATA = Verdict(VerdictKind.NO_DATA, "nothing", cause=NoDataCause.UNREACHABLE)


def rollout(state: S, step: int = 0, **more: object) -> RolloutNow:
    return replace(RolloutNow("ro-1", state, step, STEPS, "charlm-1", "charlm-2"), **more)  # type: ignore[arg-type]


def facts(**more: object) -> Facts:
    world = Facts(state_s=1, step_s=1, stable=ReplicaFacts(1), canary=ReplicaFacts(1), weights={"charlm-1": 100})
    return replace(world, **more)  # type: ignore[arg-type]


def test_case_52_no_weight_is_given_before_the_canary_answers() -> None:
    move = next_move(rollout(S.STEP_APPLYING), facts(canary=ReplicaFacts(0)))
    assert move.effects == (Scale("charlm-2", 1),)


def test_i5_a_share_of_the_traffic_needs_its_share_of_the_replicas() -> None:
    few = replace(rollout(S.STEP_APPLYING, 2), replicas=4, steps=(*STEPS[:2], StepSpec("weight", 75)))
    assert next_move(few, facts(canary=ReplicaFacts(2))).effects == (Scale("charlm-2", 4),)
    assert next_move(few, facts(canary=ReplicaFacts(3))).effects == (Route("charlm-1", "charlm-2", 75),)
    all_of_it = replace(few, state=S.PROMOTING)
    assert next_move(all_of_it, facts(canary=ReplicaFacts(3))).effects == (Scale("charlm-2", 4),)
    there = facts(canary=ReplicaFacts(3), weights={"charlm-2": 100})
    assert Route("charlm-2", None, 0, promotes=True) in next_move(all_of_it, there).effects, (
        "it has the traffic already"
    )


def test_a_promotion_goes_back_when_the_files_of_its_release_are_gone() -> None:
    lost = facts(canary=ReplicaFacts(0, broken="its bundle is gone"))
    assert next_move(rollout(S.PROMOTING, 2), lost).state is S.ROLLING_BACK


def test_what_made_room_goes_while_the_promoted_release_is_verified_too() -> None:
    batch = (StepSpec("weight", 100, replicas=1),)
    rolled = replace(rollout(S.VERIFYING, was_promoted=True), strategy=Strategy.ROLLING, steps=batch)
    there = facts(weights={"charlm-2": 100}, stable=ReplicaFacts(2, alive=2))
    assert next_move(rolled, there).effects == (Scale("charlm-1", 1),), "and no route that is there already"


def test_a_step_bakes_only_once_every_worker_has_its_weight() -> None:
    wanted = Route("charlm-1", "charlm-2", 25)
    assert next_move(rollout(S.STEP_APPLYING), facts()).effects == (wanted,)
    assert next_move(rollout(S.STEP_APPLYING), facts(weights=None)).effects == (wanted,)
    there = facts(weights={"charlm-2": 25, "charlm-1": 75})
    assert next_move(rollout(S.STEP_APPLYING), there).state is S.STEP_BAKING


def test_a_split_that_only_a_foreign_hand_has_set_is_not_the_step_s_own() -> None:
    read = {"charlm-2": 25, "charlm-1": 75}
    move = next_move(rollout(S.STEP_APPLYING), facts(weights=read, tracks={"charlm-1": 100}))
    assert (move.state, move.effects) == (S.STEP_APPLYING, (Route("charlm-1", "charlm-2", 25),))
    assert next_move(rollout(S.STEP_APPLYING), facts(weights=read, tracks=read)).state is S.STEP_BAKING


def test_a_lost_weight_is_not_given_again_to_a_canary_that_has_died() -> None:
    lost = facts(weights={"charlm-1": 100}, canary=ReplicaFacts(0), verdict=OPEN)
    assert next_move(rollout(S.STEP_BAKING), lost).effects == ()
    back = replace(lost, canary=ReplicaFacts(1))
    assert next_move(rollout(S.STEP_BAKING), back).effects == (Route("charlm-1", "charlm-2", 25),)


@pytest.mark.parametrize(
    ("verdict", "state", "reason"),
    [
        (PASS, S.STEP_APPLYING, ""),
        (FAIL, S.ROLLING_BACK, ""),
        (EXPIRED, S.PAUSED, PauseReason.INCONCLUSIVE),
        (COMMON, S.PAUSED, PauseReason.SLO),
        (NO_DATA, S.PAUSED, PauseReason.NO_DATA),
        (OPEN, S.STEP_BAKING, ""),
        (None, S.STEP_BAKING, ""),
    ],
)
def test_a_baking_step_moves_by_its_verdict(verdict: Verdict | None, state: S, reason: str) -> None:
    there = facts(weights={"charlm-2": 25, "charlm-1": 75}, verdict=verdict)
    move = next_move(rollout(S.STEP_BAKING), there)
    assert (move.state, move.pause_reason) == (state, reason)


@pytest.mark.parametrize("state", [S.STEP_BAKING, S.AWAITING_PROMOTION, S.VERIFYING, S.PAUSED])
@pytest.mark.parametrize("verdict", [PASS, FAIL, EXPIRED, NO_DATA])
def test_a_hold_stops_movement_either_way(state: S, verdict: Verdict) -> None:
    held = facts(verdict=verdict, is_held=True, weights={"charlm-2": 25, "charlm-1": 75})
    assert next_move(rollout(state, resume_state=S.STEP_BAKING if state is S.PAUSED else None), held).state is state


def test_a_freeze_stops_forward_movement_but_not_the_way_back() -> None:
    there = facts(weights={"charlm-2": 25, "charlm-1": 75}, is_frozen=True)
    waits = next_move(rollout(S.STEP_BAKING), replace(there, verdict=PASS))
    assert (waits.state, waits.pause_reason, waits.resume_state) == (S.PAUSED, PauseReason.FREEZE, S.STEP_BAKING)
    assert next_move(rollout(S.STEP_BAKING), replace(there, verdict=FAIL)).state is S.ROLLING_BACK
    frozen = rollout(S.PAUSED, resume_state=S.STEP_BAKING, pause_reason=PauseReason.FREEZE)
    assert next_move(frozen, there).state is S.PAUSED
    assert next_move(frozen, replace(there, is_frozen=False)).state is S.STEP_BAKING, "it goes on by itself"
    assert next_move(frozen, replace(there, verdict=FAIL)).state is S.ROLLING_BACK


def test_guardrails_stay_armed_while_a_person_thinks() -> None:
    paused = rollout(S.PAUSED, resume_state=S.STEP_BAKING)
    assert next_move(paused, facts(verdict=FAIL)).state is S.ROLLING_BACK
    assert next_move(paused, facts(verdict=PASS)).state is S.PAUSED


def test_case_55_a_cold_stable_is_started_before_it_gets_traffic() -> None:
    cold = facts(stable=ReplicaFacts(0), weights={"charlm-2": 100})
    assert next_move(rollout(S.ROLLING_BACK), cold).effects == (Scale("charlm-1", 1),)
    warm = facts(weights={"charlm-2": 100})
    assert next_move(rollout(S.ROLLING_BACK), warm).effects == (Route("charlm-1", None, 0, reverts=True),)


def test_capacity_goes_down_only_after_traffic_is_read_back_on_stable() -> None:
    move = next_move(rollout(S.ROLLING_BACK), facts())
    assert move.state is S.ROLLED_BACK
    assert Scale("charlm-2", 0) in move.effects
    assert RegistryMove("reject", "charlm-2", "charlm-1") in move.effects


def test_a_rollback_is_not_over_while_the_tracks_would_give_the_canary_its_weight_again() -> None:
    late = facts(tracks={"charlm-1": 75, "charlm-2": 25})  # meant, written, and not yet at any gateway
    assert next_move(rollout(S.ROLLING_BACK), late).effects == (Route("charlm-1", None, 0, reverts=True),)
    assert next_move(rollout(S.ROLLING_BACK), facts(tracks={"charlm-1": 100})).state is S.ROLLED_BACK


def test_the_first_release_that_fails_has_nothing_to_return_to_and_pauses() -> None:
    first = rollout(S.VERIFYING, 2, from_release=None, was_promoted=True)
    move = next_move(first, facts(verdict=FAIL, weights={"charlm-2": 100}))
    assert (move.state, move.pause_reason) == (S.PAUSED, PauseReason.SLO)
    with pytest.raises(Conflict, match="first release"):
        apply_verb(first, "rollback", "user:ann")


def test_a_crash_loop_while_preparing_rolls_back_before_any_traffic() -> None:
    assert next_move(rollout(S.PREPARING), facts(canary=ReplicaFacts(0, crash_loop="5 deaths"))).state is S.ROLLING_BACK


def test_case_45_a_slow_load_has_the_time_its_policy_gives_it() -> None:
    twelve_minutes = facts(canary=ReplicaFacts(0), state_s=720)
    patient = rollout(S.PREPARING, prepare_timeout_s=900.0)
    assert next_move(patient, twelve_minutes).state is S.PREPARING
    late = next_move(rollout(S.PREPARING), twelve_minutes)
    assert late.state is S.ROLLING_BACK and "not ready within 600 s" in late.message


def test_promotion_waits_for_the_registry_never_for_long_for_traffic() -> None:
    move = next_move(rollout(S.PROMOTING, 2), facts(weights={"charlm-2": 100}))
    assert move.effects[0] == Route("charlm-2", None, 0, promotes=True)
    assert next_move(rollout(S.PROMOTING, 2, was_promoted=True), facts(weights={"charlm-2": 100})).state is S.VERIFYING


@pytest.mark.parametrize("state", list(S))
@pytest.mark.parametrize("verb", ROLLOUT_VERBS)
def test_every_state_and_verb_has_an_answer_and_a_refusal_says_why(state: S, verb: str) -> None:
    refusal = rollout_refusal(verb, state)
    assert refusal is None or len(refusal) > 8


@pytest.mark.parametrize("state", [s for s in S if not s.is_terminal and s is not S.ROLLING_BACK])
def test_rollback_is_legal_from_every_state_that_is_not_over(state: S) -> None:
    move = apply_verb(rollout(state, resume_state=S.STEP_BAKING), "rollback", "user:ann")
    assert move.state in (S.ROLLING_BACK, S.CANCELLED)


def test_effects_survive_the_journal() -> None:
    for effect in (
        Scale("a", 2),
        Route("a", "b", 25),
        Route("a", None, 0, promotes=True),
        RegistryMove("promote", "a", None),
    ):
        assert from_json(to_json(effect)) == effect
