"""What a wait waits for: where an object stands towards its condition, and the exit code that follows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from console.commands import expressions
from console.commands.conditions import Condition
from state.words import ExitCode, UsageError

Views = dict[str, Callable[..., dict[str, Any]]]
FAIL = {"at": 0.0, "step": 1, "kind": "FAIL", "sentence": "errors 4.0 % against 0.1 %"}


@pytest.mark.parametrize(
    ("state", "met", "exit", "is_gate"),
    [
        ("step_baking", False, None, False),
        ("rolling_back", False, None, False),
        ("completed", True, None, False),
        ("rolled_back", False, ExitCode.FAILED, False),
        ("cancelled", False, ExitCode.FAILED, False),
        ("superseded", False, ExitCode.FAILED, False),
        ("paused", False, ExitCode.WAITING, True),
        ("awaiting_approval", False, ExitCode.WAITING, True),
        ("awaiting_promotion", False, ExitCode.WAITING, True),
        ("stuck", False, ExitCode.WAITING, True),
    ],
)
def test_a_rollout_that_should_complete(
    views: Views, state: str, met: bool, exit: ExitCode | None, is_gate: bool
) -> None:
    stands = Condition.parse("done", "rollout").standing(views["rollout"](state=state))
    assert (stands.is_met, stands.is_gate) == (met, is_gate)
    assert (stands.error.exit if stands.error else None) == exit


def test_a_rollback_by_verdict_is_a_gate_that_said_no(views: Views) -> None:
    stands = Condition.parse("done", "rollout").standing(views["rollout"](state="rolled_back", verdict=FAIL))
    assert stands.error is not None
    assert stands.error.exit == ExitCode.GATE
    assert "errors 4.0 % against 0.1 %" in stands.error.message


def test_the_way_back_is_done_when_it_has_arrived(views: Views) -> None:
    condition = Condition.parse("done", "rollout", goes_back=True)
    assert not condition.standing(views["rollout"](state="rolling_back")).is_met
    assert condition.standing(views["rollout"](state="rolled_back")).is_met
    assert not condition.standing(views["rollout"](state="paused")).is_gate


def test_waiting_for_a_pause_makes_it_no_gate(views: Views) -> None:
    assert Condition.parse("paused", "rollout").standing(views["rollout"](state="paused")).is_met


@pytest.mark.parametrize(("step", "state", "met"), [(0, "step_baking", False), (1, "step_baking", True), (2, "paused", True),
                                                   (0, "completed", True), (1, "rolling_back", False)])  # fmt: skip
def test_a_step_is_reached_only_on_the_way_forward(views: Views, step: int, state: str, met: bool) -> None:
    assert Condition.parse("step=2", "rollout").standing(views["rollout"](step=step, state=state)).is_met is met


def test_fields_can_be_waited_for(views: Views) -> None:
    assert Condition.parse("weight>=25", "rollout").standing(views["rollout"](weight=25)).is_met
    assert Condition.parse("weight=25", "rollout").standing(views["rollout"](weight=25)).is_met
    assert not Condition.parse("measured_pct > 24", "rollout").standing(views["rollout"](measured_pct=None)).is_met


@pytest.mark.parametrize(("state", "exit"), [("gate_failed", 8), ("failed", 1), ("timed_out", 1), ("cancelled", 1)])
def test_a_run_that_did_not_succeed(views: Views, state: str, exit: int) -> None:
    error = Condition.parse("done", "run").standing(views["run"](state=state, error="loss diverged")).error
    assert error is not None
    assert error.exit == exit
    assert "loss diverged" in error.message


@pytest.mark.parametrize(
    ("text", "kind"), [("finished", "rollout"), ("completed", "run"), ("done", "release"), ("weight >", "rollout")]
)
def test_a_condition_that_cannot_come_is_refused(text: str, kind: str) -> None:
    with pytest.raises(UsageError):
        Condition.parse(text, kind)


WORLD = {"rollout/ro-3.state": "step_baking", "service/chat@production.budget_left": 0.91, "alerts.paging": 0,
         "service/chat@production.p95_ms": None, "status.audit_ok": True}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("rollout/ro-3.state == step_baking", True),
        ("rollout/ro-3.state ~ BAKING", True),
        ("service/chat@production.budget_left >= 0.2 and alerts.paging == 0", True),
        ("service/chat@production.budget_left > 1 or not alerts.paging > 0", True),
        ("(alerts.paging == 1 or alerts.paging == 0) and rollout/ro-3.state != paused", True),
        ("status.audit_ok == true", True),
        ("service/chat@production.p95_ms < 800", False),
        ("service/chat@production.p95_ms != 800", False),
        ("not service/chat@production.p95_ms == null", False),
        ("service/chat@production.p95_ms == null", True),
        ("alerts.paging == '0'", True),
    ],
)
def test_an_expression_holds_or_not_and_the_unknown_holds_nothing(text: str, holds: bool) -> None:
    assert expressions.evaluate(expressions.parse(text), WORLD.__getitem__) is holds


@pytest.mark.parametrize(
    "text", ["", "a ==", "== 3", "a b", "rollout/ro-3 == x", "(a == b", "a == b )", "a === b", "a == b and", "a = b"]
)
def test_an_expression_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        expressions.parse(text)


def test_a_field_is_found_by_name_and_a_missing_one_names_what_there_is(views: Views) -> None:
    assert expressions.dig(views["fleet"](), "tracks.stable.weight", "service/chat") == 75
    assert expressions.dig(views["run"](), "stages.train.progress.step", "run/run-4") == 3
    with pytest.raises(UsageError, match="no field 'wieght'") as caught:
        expressions.dig(views["rollout"](), "wieght", "rollout/ro-3")
    assert "weight" in caught.value.hint
