"""From a key to a verb: the table decides, the revision shown goes along, the script line says the same."""

from __future__ import annotations

from typing import Any

import pytest

from console.tui.acts import Refused, VerbCall, call_of_request, choose, on_rollout, promote_choices, refusal, with_args
from console.tui.script_lines import emergency_line, script_line
from engine.api.schemas import VerbRequest
from engine.verbs import VERBS, Confirm
from state.words import RolloutState


def test_rollback_from_the_fleet_is_on_the_service_and_carries_the_revision_and_plan(world: Any) -> None:
    call = choose("rollback", world.fleet_row(), world.snapshot())
    assert isinstance(call, VerbCall)
    assert (call.verb, call.ref, call.args, call.expect_revision, call.rung) == (
        "rollback",
        "service/chat",
        {"env": "production"},
        12,
        Confirm.YES,
    )
    assert call.plan is not None
    assert call.plan.lines[0].after == "100 %"


def test_a_service_without_a_rollout_can_still_be_rolled_back(world: Any) -> None:
    call = choose("rollback", world.fleet_row(env="staging"), world.snapshot())
    assert isinstance(call, VerbCall)
    assert call.expect_revision is None
    assert call.args == {"env": "staging"}


@pytest.mark.parametrize("state", list(RolloutState))
@pytest.mark.parametrize("key", ["rollback", "abort", "pause", "retry", "promote"])
def test_a_key_runs_exactly_what_the_verb_table_allows(world: Any, state: RolloutState, key: str) -> None:
    rollout = world.rollout(state.value)
    why = refusal(key, rollout, world.snapshot())
    if key == "promote":
        menu = promote_choices(rollout, world.snapshot())
        assert not isinstance(menu, Refused)
        allowed = [c.choice.verb for c in menu if isinstance(c.choice, VerbCall)]
        assert bool(why) == (not allowed)
    else:
        choice = choose(key, rollout, world.snapshot())
        allowed = [choice.verb] if isinstance(choice, VerbCall) else []
        assert bool(why) == isinstance(choice, Refused)
    assert not set(allowed) & set(rollout.refusals)


def test_pause_is_resume_on_a_paused_rollout(world: Any) -> None:
    snapshot = world.snapshot()
    assert choose("pause", world.rollout(), snapshot).verb == "rollout.pause"  # type: ignore[union-attr]
    assert choose("pause", world.rollout("paused"), snapshot).verb == "rollout.resume"  # type: ignore[union-attr]


def test_x_and_t_on_a_run_are_cancel_and_retry(world: Any) -> None:
    snapshot = world.snapshot()
    assert choose("abort", world.run(), snapshot) == VerbCall("run.cancel", "run/run-3")
    assert choose("retry", world.run(), snapshot) == Refused("the run is still going")


def test_the_ladder_is_stricter_where_the_environment_is_protected(world: Any) -> None:
    strict, loose = (
        on_rollout("rollout.promote_full", world.rollout()),
        on_rollout("rollout.promote_full", world.rollout(protected=False)),
    )
    assert (strict.rung, loose.rung) == (Confirm.NAME_AND_REASON, Confirm.NAME)
    assert with_args(on_rollout("rollout.weight", world.rollout()), weight=40).args == {"weight": 40}


def test_a_typed_line_finds_its_service_environment_and_revision(world: Any) -> None:
    call = call_of_request(VerbRequest(verb="rollout.abort", ref="rollout/ro-2"), world.snapshot())
    assert (call.service, call.env, call.protected, call.expect_revision) == ("chat", "production", True, 12)
    unknown = call_of_request(VerbRequest(verb="rollout.abort", ref="rollout/ro-99"), world.snapshot())
    assert unknown.protected


CALLS = [
    VerbCall("rollback", "service/chat", "chat", "production", True, {"env": "production"}),
    VerbCall("deploy", "service/chat", "chat", "production", True, {"release": "charlm-2", "env": "production"}),
    *(
        VerbCall(v, "rollout/ro-2", "chat", "production", True)
        for v in VERBS
        if v.startswith("rollout.") and v != "rollout.weight"
    ),
    VerbCall("rollout.weight", "rollout/ro-2", "chat", "production", True, {"weight": 40}),
    VerbCall("run.cancel", "run/run-3"),
    VerbCall("run.retry", "run/run-3"),
    VerbCall("alert.ack", "alert/7", "chat", "production", True),
]


@pytest.mark.parametrize("call", CALLS, ids=lambda c: c.verb)
def test_the_script_line_means_the_same_verb_to_the_grammar(call: VerbCall) -> None:
    grammar = pytest.importorskip("console.commands.grammar")
    request = grammar.parse_line(script_line(call, "because").removeprefix("airboss "))
    assert (request.verb, request.ref) == (call.verb, call.ref)
    assert {k: v for k, v in request.args.items() if k in call.args} == dict(call.args)
    assert request.yes == (call.rung is not Confirm.NONE)


def test_the_emergency_line_is_quoted_for_a_shell() -> None:
    assert emergency_line("chat", "production") == "airboss rollback chat --env production --emergency"
    assert emergency_line("a; rm -rf /", "") == "airboss rollback 'a; rm -rf /' --emergency"
