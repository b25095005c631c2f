"""`on-failure`: when it runs, when it does not, and that it comes to an end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from state.words import (
    AirbossError,
    Conflict,
    Denied,
    GateRefused,
    OperationFailed,
    TimedOut,
    UsageError,
    WaitingForHuman,
)

Run = Callable[..., Any]
AIRBOSS = Path(sys.executable).with_name("airboss")
WAY_OUT = "on-failure rollback chat --env production --yes\n"


def _started(text: str, *more: str) -> subprocess.Popen[str]:
    """A script that runs, its text on stdin."""
    pipe = subprocess.PIPE
    script = subprocess.Popen([AIRBOSS, "--script", "-", *more], stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    assert script.stdin is not None
    script.stdin.write(text)
    script.stdin.close()
    script.stdin = None
    return script


@pytest.mark.parametrize(
    ("error", "runs"),
    [
        (OperationFailed("x"), True),
        (TimedOut("x"), True),
        (GateRefused("x"), True),
        (UsageError("x"), False),
        (WaitingForHuman("x"), False),
        (Conflict("x"), False),
        (Denied("x"), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, AirbossError) else "",
)
def test_it_runs_for_what_was_done_and_ended_badly(engine: Any, airboss: Run, error: AirbossError, runs: bool) -> None:
    def answer(request: dict[str, Any]) -> dict[str, Any]:
        if request["verb"] == "rollout.pause":
            raise error
        return {}

    engine.on_verb = answer
    ran = airboss("--script", "-", stdin=WAY_OUT + "rollout pause ro-3\nnote rollout/ro-3 never\n")
    assert ran.code == error.exit
    assert [v["verb"] for v in engine.verbs] == ["rollout.pause", *(["rollback"] if runs else [])]


def test_it_does_not_run_for_a_good_end_nor_after_none(engine: Any, airboss: Run) -> None:
    assert airboss("--script", "-", stdin=WAY_OUT + "status\n").code == 0
    assert airboss("--script", "-", stdin=WAY_OUT + "on-failure none\nexpect alerts.paging > 0\n").code == 8
    assert engine.verbs == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_it_runs_once_when_a_signal_ends_the_script(engine: Any, eventually: Any, number: int, code: int) -> None:
    script = _started(
        "set +e\n" + WAY_OUT + "wait rollout/ro-3 --for completed\nnote rollout/ro-3 never\n", "-o", "json"
    )
    eventually(lambda: "/v1/rollouts/ro-3" in engine.asked)
    script.send_signal(number)
    out, _ = script.communicate(timeout=30)
    events = [json.loads(line) for line in out.splitlines()]
    assert script.returncode == code
    assert [(e["line"], e["exit"]) for e in events] == [(1, 0), (2, 0), (3, code), (2, 0)]
    assert "rollout/ro-3 is left running" in events[2]["error"]["message"] or number == signal.SIGTERM
    assert [v["verb"] for v in engine.verbs] == ["rollback"]


def test_a_hangup_ends_the_script_without_it(engine: Any, eventually: Any) -> None:
    script = _started(WAY_OUT + "wait rollout/ro-3 --for completed\n")
    eventually(lambda: "/v1/rollouts/ro-3" in engine.asked)
    script.send_signal(signal.SIGHUP)
    script.communicate(timeout=30)
    assert script.returncode == 129
    assert engine.verbs == []


def test_a_further_signal_lets_it_finish(engine: Any, eventually: Any) -> None:
    may_answer = threading.Event()

    def slow(request: dict[str, Any]) -> dict[str, Any]:
        may_answer.wait(20)
        return {"message": "rolled back"}

    engine.on_verb = slow
    script = _started(WAY_OUT + "expect alerts.paging > 0\n")
    eventually(lambda: engine.verbs)
    script.send_signal(signal.SIGTERM)
    assert script.stderr is not None
    said = ""
    while "is let finish" not in said:
        said = script.stderr.readline()
        assert said
    may_answer.set()
    out, _ = script.communicate(timeout=30)
    assert (script.returncode, "rolled back" in out) == (8, True)


def test_it_is_bounded_in_time(engine: Any, airboss: Run) -> None:
    engine.on_verb = lambda request: threading.Event().wait(30) and {}
    text = "on-failure rollback chat --env production --yes --timeout 200ms\nexpect alerts.paging > 0\n"
    ran = airboss("--script", "-", stdin=text, timeout_s=20)
    assert ran.code == 8
    assert "line 1: on-failure was given 0.2 s" in ran.err


def test_its_own_failure_does_not_hide_the_first(engine: Any, airboss: Run) -> None:
    def answer(request: dict[str, Any]) -> dict[str, Any]:
        raise Denied("not you")

    engine.on_verb = answer
    ran = airboss("--script", "-", stdin=WAY_OUT + "expect alerts.paging > 0\n")
    assert ran.code == 8
    assert "line 1: not you" in ran.err


def test_the_whole_script_has_a_time(engine: Any, airboss: Run) -> None:
    text = "set +e\n" + WAY_OUT + "sleep 1h\nnote rollout/ro-3 never\n"
    ran = airboss("--script", "-", "--timeout", "1s", stdin=text)
    assert ran.code == 4
    assert "line 3: the script's 1 s are over" in ran.err
    assert [v["verb"] for v in engine.verbs] == ["rollback"]
