"""What an attempt came to, from how its process ended and what it left."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.local.spawn import ChildExit
from engine.pipelines.cache import Manifest
from engine.pipelines.outcome import Left, backoff_s, judge
from engine.pipelines.stage import Gate, StageResult
from state.words import RunState

KEPT = Manifest("k", "train", "me", "digest", (), 0.0, {})
OTHERS = Manifest("k", "train", "another", "digest", (), 0.0, {})
KILLED = ChildExit(None, "killed by SIGKILL")


@pytest.mark.parametrize(
    ("exit_", "left", "timed_out", "state", "retryable"),
    [
        (ChildExit(0, "exited"), Left(KEPT), False, RunState.SUCCEEDED, False),
        (KILLED, Left(KEPT), False, RunState.SUCCEEDED, False),
        (KILLED, Left(KEPT), True, RunState.SUCCEEDED, False),
        (ChildExit(0, "exited"), Left(OTHERS), False, RunState.CACHED, False),
        (KILLED, Left(OTHERS), False, RunState.FAILED, True),
        (KILLED, Left(), False, RunState.FAILED, True),
        (KILLED, Left(), True, RunState.TIMED_OUT, False),
        (ChildExit(8, "exited"), Left(), False, RunState.GATE_FAILED, False),
        (ChildExit(8, "exited"), Left(OTHERS), False, RunState.GATE_FAILED, False),
        (ChildExit(0, "exited"), Left(), False, RunState.FAILED, False),
        (ChildExit(1, "exited"), Left(error={"message": "x", "retryable": True}), False, RunState.FAILED, True),
        (ChildExit(1, "exited"), Left(error={"message": "x", "retryable": False}), False, RunState.FAILED, False),
        (ChildExit(1, "left with 1 before it could say why"), Left(), False, RunState.FAILED, False),
    ],
)
def test_outcome_of_an_attempt(exit_: ChildExit, left: Left, timed_out: bool, state: RunState, retryable: bool) -> None:
    outcome = judge(exit_, left, spawn_id="me", timed_out=timed_out, timeout_s=5)
    assert (outcome.state, outcome.retryable) == (state, retryable)
    assert bool(outcome.error) != state.is_good


@given(st.floats() | st.none(), st.floats(), st.sampled_from(["<=", "<", ">=", ">"]))
def test_no_number_passes_no_gate(value: float | None, limit: float, op: str) -> None:
    passed = Gate("g", value, limit, op).passed
    if value is None or not math.isfinite(value) or not math.isfinite(limit):
        assert not passed
    else:
        assert passed == {"<=": value <= limit, "<": value < limit, ">=": value >= limit, ">": value > limit}[op]


def test_numbers_json_cannot_hold_read_as_missing() -> None:
    result = StageResult({"loss": float("nan"), "n": 3}, (Gate("loss", float("inf"), 1.0, "<="),)).to_json()
    assert result["metrics"] == {"loss": None, "n": 3}
    assert (result["gates"][0]["value"], result["gates"][0]["passed"]) == (None, False)


def test_backoff_doubles_to_a_minute() -> None:
    assert [backoff_s(1.0, tries) for tries in (1, 2, 3, 10)] == [1.0, 2.0, 4.0, 60.0]
