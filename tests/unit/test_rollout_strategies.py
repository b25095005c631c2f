"""What each strategy does next, as a pure function: the exact order of its moves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.rollouts.by_hand import apply_verb
from engine.rollouts.deploy_plan import Cost, Memory, deploy_plan, refuse_blind_swap
from engine.rollouts.effects import Extras, Route, Scale, from_json, to_json
from engine.rollouts.frozen import frozen_policy
from engine.rollouts.machine import next_move
from engine.rollouts.previews import Preview
from engine.rollouts.records import steps_of
from engine.rollouts.routes import extras_of, route_of
from engine.rollouts.values import Facts, Move, ReplicaFacts, RolloutNow
from engine.rollouts.verdict import Verdict
from engine.verbs import rollout_refusal
from state.config import Config, Service, parse_config
from state.policy_config import Policy
from state.words import ConfigError, Conflict, Denied, RolloutState, Strategy, UsageError, VerdictKind

S = RolloutState
OLD, NEW = "chat-1", "chat-2"
PASS = Verdict(VerdictKind.PASS, "clean")
FAIL = Verdict(VerdictKind.FAIL, "bad", guard="errors")
NO_DATA = Verdict(VerdictKind.NO_DATA, "no pairs")
BASE = """
[service.chat]
replicas = 3
[environment.production]
policy = "p"
[policy.p]
approvals = 0
"""


def config(policy: str = "", more: str = "") -> Config:
    return parse_config(BASE + policy + "\n" + more, Path("airboss.toml"))


def rollout(policy: str = "", strategy: str = "", steps: tuple[object, ...] = (), **more: object) -> RolloutNow:
    """A rollout as the configuration would have it, at its first step."""
    kept = frozen_policy(config(policy), "chat", "production", strategy, steps)
    now = RolloutNow(
        "ro-1", S.STEP_APPLYING, 0, steps_of(kept), OLD, NEW, replicas=kept["replicas"],
        strategy=Strategy(kept["strategy"]), surge=kept["surge"], unavailable=kept["unavailable"],
        has_baseline=kept["baseline"], auto_promote=kept["auto_promote"], affinity=kept["affinity"],
    )  # fmt: skip
    return replace(now, **more)  # type: ignore[arg-type]


class World:
    """Gateway and replicas that do at once what a move wants; `seen` is what was wanted, in order."""

    def __init__(self, stable: int = 3, canary: int = 0) -> None:
        self.counts = {(OLD, ""): stable, (NEW, ""): canary, (OLD, "baseline"): 0}
        self.weights: dict[str, int] = {OLD: 100}
        self.extras = Extras()
        self.known: list[dict[str, int]] = []
        self.seen: list[object] = []

    def facts(self, verdict: Verdict | None = None) -> Facts:
        stable, canary, baseline = (
            ReplicaFacts(ready=self.counts[key], alive=self.counts[key])
            for key in ((OLD, ""), (NEW, ""), (OLD, "baseline"))
        )
        there = dict(self.weights)
        return Facts(1, 1, stable, canary, there, self.extras, baseline, verdict=verdict, known=tuple(self.known))

    def take(self, move: Move) -> None:
        for effect in move.effects:
            if isinstance(effect, Scale):
                self.counts[effect.release_id, effect.role] = effect.replicas
            elif isinstance(effect, Route):
                split = {
                    str(effect.canary): effect.canary_weight,
                    str(effect.stable): 100 - effect.canary_weight,
                }
                self.weights = {release: weight for release, weight in split.items() if weight}
                self.extras = effect.extras
                self.known.append(effect.split)
            self.seen.append(effect)

    def play(self, r: RolloutNow, until: S, verdict: Verdict | None = None) -> RolloutNow:
        """Go on until the rollout comes to `until`."""
        for _ in range(40):
            move = next_move(r, self.facts(verdict))
            self.take(move)
            if move.state is not r.state or move.step != r.step:
                self.seen.append(move.state)
            r = replace(r, state=move.state, step=move.step, resume_state=move.resume_state)
            if r.state is until:
                return r
        raise AssertionError(f"never {until}: {self.seen}")


def scales(world: World) -> list[tuple[str, int]]:
    return [(e.release_id, e.replicas) for e in world.seen if isinstance(e, Scale)]


def test_rolling_adds_one_gives_it_its_weight_and_only_then_takes_one_away() -> None:
    world = World()
    world.play(rollout(strategy="rolling"), S.PROMOTING, PASS)
    wanted = [e for e in world.seen if isinstance(e, Scale | Route)]
    assert wanted == [
        Scale(NEW, 1), Route(OLD, NEW, 33), Scale(OLD, 2),
        Scale(NEW, 2), Route(OLD, NEW, 66), Scale(OLD, 1),
        Scale(NEW, 3), Route(OLD, NEW, 100),
        # The surge's last one stays: until the new release is verified it is the quick way back.
        Scale(OLD, 1),
    ]  # fmt: skip


def test_rolling_without_surge_makes_room_first_and_never_more_than_it_may() -> None:
    world = World()
    policy = 'strategy = "rolling"\nrolling = { surge = 0, unavailable = 1 }'
    world.play(rollout(policy), S.PROMOTING, PASS)
    assert scales(world)[:6] == [(OLD, 2), (NEW, 1), (OLD, 2), (OLD, 1), (NEW, 2), (OLD, 1)]
    assert world.counts[OLD, ""] == 0 and world.counts[NEW, ""] == 3


def test_a_batch_that_only_settles_goes_on_by_time_and_still_fails_on_harm() -> None:
    policy = 'strategy = "rolling"\nrolling = { settle = "10s" }'
    r = replace(rollout(policy), state=S.STEP_BAKING)
    there = World(2, 1)
    there.weights, there.extras = {NEW: 33, OLD: 67}, Extras()
    assert next_move(r, there.facts()).state is S.STEP_BAKING
    assert next_move(r, replace(there.facts(), step_s=11.0)).state is S.STEP_APPLYING
    assert next_move(r, there.facts(FAIL)).state is S.ROLLING_BACK


def test_going_back_half_way_starts_what_is_missing_first_while_the_new_release_answers() -> None:
    world = World(1, 2)
    world.weights = {NEW: 66, OLD: 34}
    r = replace(rollout(strategy="rolling"), state=S.ROLLING_BACK, step=1)
    world.play(r, S.ROLLED_BACK)
    assert world.seen[:2] == [Scale(OLD, 3), Route(OLD, None, 0, reverts=True)]
    assert world.counts[NEW, ""] == 0 and world.counts[OLD, ""] == 3


def test_going_back_from_a_release_that_does_not_answer_gives_the_traffic_to_those_that_are_left_at_once() -> None:
    there = World(1, 2)
    there.weights = {NEW: 66, OLD: 34}
    r = replace(rollout(strategy="rolling"), state=S.ROLLING_BACK, step=1)
    dead = replace(there.facts(), canary=ReplicaFacts(0, crash_loop="3 deaths", alive=0))
    assert next_move(r, dead).effects == (Route(OLD, None, 0, reverts=True), Scale(OLD, 3))


def test_a_swap_unloads_before_it_loads_and_restores_in_the_same_order() -> None:
    world = World()
    world.play(rollout(strategy="swap"), S.STEP_BAKING)
    assert world.seen[:3] == [Scale(OLD, 0), Scale(NEW, 3), Route(OLD, NEW, 100)]
    back = World(0, 3)
    back.weights = {NEW: 100}
    back.play(replace(rollout(strategy="swap"), state=S.ROLLING_BACK), S.ROLLED_BACK)
    assert back.seen[:3] == [Scale(NEW, 0), Scale(OLD, 3), Route(OLD, None, 0, reverts=True)]


def test_a_swap_whose_release_does_not_load_is_restored() -> None:
    r = rollout(strategy="swap")
    world = World(0, 1)
    crashed = replace(world.facts(), canary=ReplicaFacts(0, crash_loop="3 deaths", alive=1))
    move = next_move(r, crashed)
    assert (move.state, move.message) == (S.ROLLING_BACK, f"{NEW} cannot serve: 3 deaths")


def test_nothing_of_a_rolling_update_is_started_beside_what_runs_while_it_prepares() -> None:
    r = replace(rollout(strategy="rolling"), state=S.PREPARING)
    assert next_move(r, World().facts()).state is S.STEP_APPLYING
    assert next_move(r, replace(World().facts(), is_frozen=True)).state is S.PREPARING


def test_blue_green_has_full_capacity_and_a_preview_before_anything_and_switches_at_once() -> None:
    r = rollout(strategy="blue-green", steps=("analysis",))
    few = World(canary=2)
    assert next_move(r, few.facts()).effects == (Scale(NEW, 3),)
    world = World(canary=3)
    world.play(r, S.PROMOTING, PASS)
    routes = [e for e in world.seen if isinstance(e, Route)]
    preview = Extras(rules=(f"header x-airboss-preview={NEW}",))
    assert routes[:2] == [Route(OLD, NEW, 0, extras=preview), Route(OLD, NEW, 100)]


def test_a_mirror_comes_first_and_ends_with_the_first_weight() -> None:
    r = rollout(steps=("mirror=10", 25))
    world = World(canary=3)
    r = world.play(r, S.SHADOWING)
    assert world.seen[0] == Route(OLD, None, 0, extras=Extras(shadow=NEW, mirror_pct=10))
    assert next_move(r, world.facts(NO_DATA)).state is S.PAUSED
    assert next_move(r, world.facts(FAIL)).state is S.ROLLING_BACK
    world.play(r, S.STEP_BAKING, PASS)
    assert world.seen[-2:] == [Route(OLD, NEW, 25), S.STEP_BAKING]


@pytest.mark.parametrize(("then", "state"), [("wait", S.AWAITING_PROMOTION), ("promote", S.PROMOTING)])
def test_a_shadow_ends_waiting_for_a_person_or_by_policy(then: str, state: S) -> None:
    policy = f'strategy = "shadow"\nsteps = [{{ mirror = 20 }}]\nshadow = {{ then = "{then}" }}'
    r = replace(rollout(policy), state=S.SHADOWING)
    there = replace(World(canary=3).facts(PASS), extras=Extras(shadow=NEW, mirror_pct=20))
    assert next_move(r, there).state is state


def test_a_header_step_sends_its_requests_to_the_canary_from_there_on() -> None:
    r = rollout(steps=("header=X-Beta: 1", "cookie=team", 25))
    world = World(canary=3)
    r = world.play(r, S.STEP_BAKING)
    assert world.seen[0] == Route(OLD, NEW, 0, extras=Extras(rules=("header x-beta=1",)))
    assert next_move(r, world.facts(NO_DATA)).state is S.PAUSED
    world.play(r, S.PROMOTING, PASS)
    assert Route(OLD, NEW, 25, extras=Extras(rules=("header x-beta=1", "cookie team"))) in world.seen


def test_a_way_back_is_not_over_while_a_header_still_leads_to_the_canary() -> None:
    r = replace(rollout(steps=("header=x-beta=1", 25)), state=S.ROLLING_BACK)
    world = World(canary=3)
    world.extras = Extras(rules=("header x-beta=1",))
    assert next_move(r, world.facts()).effects == (Route(OLD, None, 0, reverts=True),)


def test_a_baseline_is_as_many_fresh_copies_at_the_same_weight() -> None:
    r = rollout("baseline = true", steps=(10, 50, 75))
    world = World(canary=3)
    preparing = next_move(replace(r, state=S.PREPARING), world.facts())
    assert preparing.effects[:2] == (Scale(NEW, 3), Scale(OLD, 3, "baseline"))
    world.take(preparing)
    world.play(r, S.PROMOTING, PASS)
    routes = [e for e in world.seen if isinstance(e, Route)]
    assert [(e.canary_weight, e.extras.baseline_weight) for e in routes[:4]] == [(10, 10), (50, 50), (75, 0), (100, 0)]


def test_a_route_survives_the_journal_and_comes_back_from_the_gateway_as_it_was_meant() -> None:
    extras = Extras(NEW, 10, ("header x-beta=1", "cookie team"), 0, "header x-user")
    effect = Route(OLD, NEW, 5, extras=extras)
    assert from_json(to_json(effect)) == effect
    assert from_json({"kind": "route", "stable": OLD, "canary": None, "canary_weight": 0}) == Route(OLD, None, 0)
    meant = route_of(effect, service="chat", env="production", target="local", rollout_id="ro-1", settings=Service())
    assert sum(b.weight for b in meant.backends) == 100
    assert meant.routing is not None and meant.routing.split.header == "x-user"


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ('strategy = "rolling"\nsteps = [{ weight = 50 }, { weight = 100 }]', "weights follow its replicas"),
        ('strategy = "shadow"\nsteps = [{ header = "x-a" }]', "no header step"),
        ('strategy = "blue-green"\nsteps = [{ weight = 50 }]', "switches all traffic at once"),
        ("steps = [{ weight = 50 }, { mirror = 5 }, { weight = 100 }]", "before the first weight"),
        ("rolling = { surge = 0 }", "no replica can be replaced"),
        ('steps = [{ header = "x a" }, { weight = 100 }]', "is not NAME=VALUE"),
        ('affinity = "tea"', "is not 'client'"),
        ('strategy = "swap"\nbaseline = true', "stands beside a canary"),
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused_with_its_line(policy: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        config(policy)
    assert "airboss.toml:" in str(caught.value)


def test_no_flag_leaves_an_approval_out() -> None:
    policy = "steps = [{ weight = 50 }, { approval = 1 }, { weight = 100 }]"
    with pytest.raises(Denied, match="asks for 1 approval"):
        rollout(policy, steps=(50,))
    with pytest.raises(Denied, match="--strategy rolling leaves out"):
        rollout(policy, strategy="rolling")
    assert [s.kind for s in rollout(policy, strategy="blue-green").steps] == ["approval", "weight"]
    assert [s.kind for s in rollout(policy, steps=(50, "approval=1")).steps] == ["weight", "approval", "weight"]


@pytest.mark.parametrize("steps", [("mirror=0",), ("tea=1",), (50, 25), ("pause=soon",), ("header=",)])
def test_steps_that_cannot_be_meant_are_refused(steps: tuple[object, ...]) -> None:
    with pytest.raises(UsageError, match="--steps"):
        rollout(steps=steps)


@pytest.mark.parametrize(
    ("strategy", "said"),
    [
        ("rolling", "follows its ready replicas"),
        ("blue-green", "no weights between"),
        ("shadow", "no users"),
        ("swap", ""),
    ],
)
def test_a_weight_set_by_hand_is_refused_where_there_is_none(strategy: str, said: str) -> None:
    assert said in (rollout_refusal("rollout.weight", S.STEP_BAKING, "weight", strategy) or "allowed")
    assert rollout_refusal("rollout.promote", S.STEP_BAKING, "weight", strategy) is None
    assert rollout_refusal("rollout.pause", S.SHADOWING, "mirror", strategy) is None
    assert rollout_refusal("rollout.abort", S.SHADOWING, "mirror", strategy) is None


def test_people_move_a_shadow_on() -> None:
    r = replace(rollout(steps=("mirror=10", 25)), state=S.SHADOWING)
    assert apply_verb(r, "rollout.promote", "user:ann").step == 1
    assert apply_verb(r, "rollout.pause", "user:ann").resume_state is S.SHADOWING
    with pytest.raises(Conflict, match="copies"):
        apply_verb(r, "rollout.weight", "user:ann")


def plan(strategy: str, cost: Cost, policy: str = "", **more: Any) -> tuple[str, ...]:
    kept = frozen_policy(config(policy), "chat", "production", strategy, ())
    return deploy_plan(
        "chat", "production", NEW, OLD, {**kept, **more}, cost, Preview("x-airboss-preview: b", "http://host")
    ).warnings


def test_the_plan_says_what_a_cheaper_way_sheds_and_for_how_long() -> None:
    measured, guessed = Cost(40.0, True), Cost(15.0, False)
    (said,) = plan("rolling", measured)
    assert "starts 2 of 3 again, about 40 s (measured here)" in said and "up to 67 % of the capacity" in said
    away = plan("", measured, 'strategy = "rolling"\nrolling = { surge = 0, unavailable = 1 }')
    assert any("takes 1 of 3 replicas away for about 40 s: up to 33 %" in w for w in away)
    (gap,) = plan("swap", guessed)
    assert "about 15 s (a guess: no start was measured yet)" in gap and "restored" in gap
    assert plan("blue-green", measured) == (
        "both releases stand at full capacity until the warm hold ends: 6 replicas",
    )


def test_a_swap_is_refused_where_it_is_not_known_that_the_release_fits() -> None:
    mib = 1 << 20
    known = Cost(1.0, True, Memory(100 * mib, 50 * mib), None, 10, 10)
    refuse_blind_swap(NEW, OLD, 3, known)
    for blind, why in (
        (replace(known, size_to=0), f"the size of {NEW}'s files"),
        (replace(known, host=Memory(None, 50 * mib)), "could be looked at"),
        (replace(known, gpu=Memory(None, 0)), "GPU memory"),
    ):
        with pytest.raises(UsageError, match=why):
            refuse_blind_swap(NEW, OLD, 3, blind)
    with pytest.raises(UsageError, match="need about 600 MiB of memory, and 350 MiB are there"):
        refuse_blind_swap(NEW, OLD, 3, replace(known, size_to=20))


def test_what_haproxy_cannot_carry_is_refused_by_name() -> None:
    haproxy = '[gateway]\nengine = "haproxy"'
    for policy, said in (
        ('strategy = "blue-green"', "preview by header"),
        ('strategy = "shadow"', "copies of requests"),
        ("steps = [{ mirror = 5 }, { weight = 100 }]", "no mirror"),
        ('affinity = "client"', "affinity"),
    ):
        with pytest.raises(ConfigError, match=said):
            config(policy, haproxy)
    with pytest.raises(UsageError, match=r"haproxy.*mirror"):
        frozen_policy(config("", haproxy), "chat", "production", "", ("mirror=5", 50))
    assert frozen_policy(config("", haproxy), "chat", "production", "rolling", ())["strategy"] == "rolling"


def test_steps_that_nobody_named_are_played_by_haproxy_without_their_copies() -> None:
    haproxy = '[gateway]\nengine = "haproxy"'
    for policy in ("", 'strategy = "rolling"'):
        kept = frozen_policy(config(policy, haproxy), "chat", "production", "canary", ())
        assert [(step["kind"], step["value"]) for step in kept["steps"]] == [("weight", w) for w in (5, 25, 50, 100)]


def test_steps_that_nobody_named_are_a_canarys_and_other_strategies_have_their_own() -> None:
    assert frozen_policy(config("", ""), "chat", "production", "", ())["steps"][0] == {"kind": "mirror", "value": 5.0}
    for strategy, first in (
        ("blue-green", {"kind": "pause", "value": 60.0}),
        ("shadow", {"kind": "mirror", "value": 10.0}),
    ):
        assert frozen_policy(config(f'strategy = "{strategy}"', ""), "chat", "production", "", ())["steps"][0] == first


def test_a_service_that_scales_by_itself_is_not_rolled() -> None:
    auto = "[service.chat.autoscale]\nmin = 1\nmax = 4"
    with pytest.raises(UsageError, match="counts replicas by itself"):
        frozen_policy(config("", auto), "chat", "production", "rolling", ())


def test_a_route_read_back_has_the_rules_that_lead_to_a_canary() -> None:
    from adapters.local.tables import observed

    rule = {
        "track": "canary",
        "header": "x-beta",
        "cookie": "",
        "equals": "1",
        "matches": None,
        "present": None,
        "at_zero": True,
    }
    backends = [
        {"track": "stable", "release_id": OLD, "weight": 80, "replicas": []},
        {"track": "baseline", "release_id": OLD, "weight": 10, "replicas": []},
        {"track": "canary", "release_id": NEW, "weight": 10, "replicas": []},
    ]
    table = {"routes": [{"service": "chat", "env": "p", "backends": backends, "routing": {"rules": [rule]}}]}
    seen = observed(table, "chat", "p")
    assert seen.weights == {OLD: 90, NEW: 10}
    assert extras_of(seen) == Extras(rules=("header x-beta=1",), baseline_weight=10)
    assert observed({"routes": [{**table["routes"][0], "backends": backends[:2]}]}, "chat", "p").canary_rules == ()


def test_the_policies_that_init_writes_as_comments_can_be_uncommented() -> None:
    from console.init import template

    text = template("w", "chat", "127.0.0.1:8080")
    marks = ("# steps = ", "# [environment.staging]", "# policy = ", "# [policy.soak]", "# approvals = 0")
    meant = "\n".join(line[2:] if line.startswith(marks) else line for line in text.splitlines())
    config = parse_config(meant, Path("airboss.toml"))
    assert config.policy["careful"].steps == Policy().steps, "what is written out is the default"
    assert [s.kind for s in config.policy_of("staging").steps] == ["weight", "pause", "approval", "weight"]
