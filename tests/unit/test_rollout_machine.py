"""The rollout machine as a pure function: its table, and its invariants over random lives."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.rollouts.by_hand import apply_verb
from engine.rollouts.effects import RegistryMove, Route, Scale, from_json, to_json
from engine.rollouts.machine import next_move
from engine.rollouts.values import Facts, Move, ReplicaFacts, RolloutNow, StepSpec
from engine.rollouts.verdict import Verdict
from engine.verbs import ROLLOUT_VERBS, rollout_refusal
from state.words import Conflict, NoDataCause, PauseReason, RolloutState, VerdictKind

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


def test_no_weight_is_given_before_the_canary_answers() -> None:
    move = next_move(rollout(S.STEP_APPLYING), facts(canary=ReplicaFacts(0)))
    assert move.effects == (Scale("charlm-2", 1),)


def test_a_step_bakes_only_once_every_worker_has_its_weight() -> None:
    wanted = Route("charlm-1", "charlm-2", 25)
    assert next_move(rollout(S.STEP_APPLYING), facts()).effects == (wanted,)
    assert next_move(rollout(S.STEP_APPLYING), facts(weights=None)).effects == (wanted,)
    there = facts(weights={"charlm-2": 25, "charlm-1": 75})
    assert next_move(rollout(S.STEP_APPLYING), there).state is S.STEP_BAKING


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
    assert next_move(rollout(S.STEP_BAKING), replace(there, verdict=PASS)).state is S.STEP_BAKING
    assert next_move(rollout(S.STEP_BAKING), replace(there, verdict=FAIL)).state is S.ROLLING_BACK


def test_guardrails_stay_armed_while_a_person_thinks() -> None:
    paused = rollout(S.PAUSED, resume_state=S.STEP_BAKING)
    assert next_move(paused, facts(verdict=FAIL)).state is S.ROLLING_BACK
    assert next_move(paused, facts(verdict=PASS)).state is S.PAUSED


def test_a_cold_stable_is_started_before_it_gets_traffic() -> None:
    cold = facts(stable=ReplicaFacts(0), weights={"charlm-2": 100})
    assert next_move(rollout(S.ROLLING_BACK), cold).effects == (Scale("charlm-1", 1),)
    warm = facts(weights={"charlm-2": 100})
    assert next_move(rollout(S.ROLLING_BACK), warm).effects == (Route("charlm-1", None, 0, reverts=True),)


def test_capacity_goes_down_only_after_traffic_is_read_back_on_stable() -> None:
    move = next_move(rollout(S.ROLLING_BACK), facts())
    assert move.state is S.ROLLED_BACK
    assert Scale("charlm-2", 0) in move.effects
    assert RegistryMove("reject", "charlm-2", "charlm-1") in move.effects


def test_the_first_release_that_fails_has_nothing_to_return_to_and_pauses() -> None:
    first = rollout(S.VERIFYING, 2, from_release=None, was_promoted=True)
    move = next_move(first, facts(verdict=FAIL, weights={"charlm-2": 100}))
    assert (move.state, move.pause_reason) == (S.PAUSED, PauseReason.SLO)
    with pytest.raises(Conflict, match="first release"):
        apply_verb(first, "rollback", "user:ann")


def test_a_crash_loop_while_preparing_rolls_back_before_any_traffic() -> None:
    assert next_move(rollout(S.PREPARING), facts(canary=ReplicaFacts(0, crash_loop="5 deaths"))).state is S.ROLLING_BACK


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


VERDICTS = st.sampled_from([None, PASS, FAIL, OPEN, EXPIRED, COMMON, NO_DATA])
WORLDS = st.builds(
    Facts,
    state_s=st.sampled_from([0.0, 10.0, 1000.0]),
    step_s=st.sampled_from([0.0, 10.0, 1000.0]),
    stable=st.builds(ReplicaFacts, ready=st.integers(0, 1)),
    canary=st.builds(ReplicaFacts, ready=st.integers(0, 1), crash_loop=st.sampled_from(["", "", "", "loop"])),
    weights=st.none(),
    verdict=VERDICTS,
    is_held=st.sampled_from([False, False, False, True]),
    is_frozen=st.sampled_from([False, False, False, True]),
)
EVENTS = st.lists(st.tuples(WORLDS, st.sampled_from([None, None, None, *ROLLOUT_VERBS])), max_size=40)


class Life:
    """A rollout in a little world that does what its effects say, some of the time."""

    def __init__(self, from_release: str | None) -> None:
        first = from_release is None
        self.now = RolloutNow("ro-1", S.PLANNED, 0, STEPS, from_release, "new")
        self.weights: dict[str, int] = {} if first else {"old": 100}
        self.went_back = False
        self.passes_used: list[int] = []

    def tick(self, world: Facts, verb: str | None) -> None:
        before = self.now
        if verb is not None:
            try:
                self.enter(apply_verb(before, verb, "user:ann"))
            except Conflict:
                assert self.now == before
            return
        move = next_move(before, replace(world, weights=dict(self.weights)))
        self.check(before, move, world)
        self.enter(move)
        for effect in move.effects:
            if isinstance(effect, Route) and move.state is before.state:
                self.route(effect, world)

    def route(self, effect: Route, world: Facts) -> None:
        assert 0 <= effect.canary_weight <= 100
        if effect.canary is not None:
            assert world.canary.ready >= 1 or before_had(self.weights, effect)
        self.weights = {effect.stable or "": 100 - effect.canary_weight}
        if effect.canary is not None and effect.canary_weight:
            self.weights[effect.canary] = effect.canary_weight
        self.weights = {k: v for k, v in self.weights.items() if k and v}
        assert sum(self.weights.values()) == 100
        self.now = replace(self.now, was_promoted=effect.stable == "new")

    def check(self, before: RolloutNow, move: Move, world: Facts) -> None:
        if self.went_back:
            assert move.state in (S.ROLLING_BACK, S.ROLLED_BACK), "a rollback, once begun, only goes on"
        advanced = move.state is S.STEP_APPLYING and move.step == before.step + 1
        completed = before.state is S.VERIFYING and move.state is S.COMPLETED
        if advanced or completed or (before.state is S.STEP_BAKING and move.state is S.PROMOTING):
            assert world.verdict is not None
            assert world.verdict.kind is VerdictKind.PASS, "moved on without a PASS"
            assert not world.is_held
            assert not world.is_frozen
        if move.state is S.ROLLING_BACK and before.state in (S.STEP_BAKING, S.VERIFYING):
            assert world.verdict is not None
            assert world.verdict.kind is VerdictKind.FAIL, "data that is missing can only pause"

    def enter(self, move: Move) -> None:
        self.went_back = self.went_back or move.state is S.ROLLING_BACK
        self.now = replace(
            self.now, state=move.state, step=move.step, pause_reason=move.pause_reason, resume_state=move.resume_state
        )


def before_had(weights: dict[str, int], effect: Route) -> bool:
    return weights.get(effect.canary or "", 0) > 0


@settings(max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(events=EVENTS, first=st.booleans())
def test_invariants_hold_over_random_lives(events: list[tuple[Facts, str | None]], first: bool) -> None:
    life = Life(None if first else "old")
    for world, verb in events:
        life.tick(world, verb)
        if life.now.state is S.ROLLED_BACK and not first:
            assert life.weights == {"old": 100}
        if life.now.state is S.COMPLETED and life.now.was_promoted:
            assert life.weights == {"new": 100}
