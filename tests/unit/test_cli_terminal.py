"""On a real terminal: what is asked, what an answer does, and what a table looks like."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pexpect
import pytest

AIRBOSS = str(Path(sys.executable).with_name("airboss"))


def _spawn(*words: str, **env: str) -> pexpect.spawn:
    import os

    # The terminal's own size, not one that whoever runs the tests put into the environment.
    inherited = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    return pexpect.spawn(AIRBOSS, list(words), env={**inherited, "TERM": "xterm-256color", **env}, encoding="utf-8", timeout=15,
                         dimensions=(40, 160))  # fmt: skip


def _end(child: pexpect.spawn) -> tuple[int, str]:
    rest = child.read()
    child.close()
    return child.exitstatus, rest


def _plan(request: dict[str, Any]) -> dict[str, Any]:
    line = {"object": "production traffic", "field": "charlm-3", "before": "25 %", "after": "50 %"}
    plan = {"verb": request["verb"], "ref": request["ref"], "lines": [line], "warnings": [], "expected_s": None}
    return {"message": "next step", "plan": plan, "revision": 7}


def test_the_plan_is_shown_and_y_does_it_at_the_revision_that_was_shown(engine: Any) -> None:
    engine.on_verb = _plan
    child = _spawn("rollout", "promote", "ro-3")
    child.expect("production traffic")
    child.expect(r"\[y/N\] ")
    assert [v["dry_run"] for v in engine.verbs] == [True]
    child.sendline("y")
    code, _ = _end(child)
    assert code == 0
    sent = engine.verbs[-1]
    assert (sent["dry_run"], sent["yes"], sent["expect_revision"]) == (False, True, 7)


@pytest.mark.parametrize("answer", ["", "n", "maybe"])
def test_anything_but_yes_does_nothing(engine: Any, answer: str) -> None:
    child = _spawn("rollback", "chat", "--env", "production")
    child.expect(r"\[y/N\] ")
    child.sendline(answer)
    code, rest = _end(child)
    assert code == 2
    assert "nothing was done" in rest
    assert [v["dry_run"] for v in engine.verbs] == [True]


def test_a_protected_deploy_takes_the_services_name(engine: Any) -> None:
    child = _spawn("deploy", "chat", "charlm-3", "--env", "production")
    child.expect("type chat to roll a release out: ")
    child.sendline("y")
    code, _ = _end(child)
    assert code == 2
    child = _spawn("deploy", "chat", "charlm-3", "--env", "production")
    child.expect("type chat to roll a release out: ")
    child.sendline("chat")
    assert _end(child)[0] == 0
    assert engine.verbs[-1]["confirm_name"] == "chat"


def test_skipping_gates_takes_a_reason_too(engine: Any) -> None:
    child = _spawn("rollout", "promote", "ro-3", "--full")
    child.expect("type chat to ")
    child.sendline("chat")
    child.expect("reason: ")
    child.sendline("the outage")
    assert _end(child)[0] == 0
    assert engine.verbs[-1]["reason"] == "the outage"


def test_what_is_typed_before_the_question_is_no_answer(engine: Any, eventually: Any) -> None:
    child = _spawn("rollback", "chat", "--env", "production")
    child.send("y\n")
    child.expect(r"\[y/N\] ")
    child.sendline("n")
    assert _end(child)[0] == 2
    assert all(v["dry_run"] for v in engine.verbs)


def test_a_script_never_asks_even_on_a_terminal(engine: Any, tmp_path: Path) -> None:
    path = tmp_path / "s.abs"
    path.write_text("rollback chat --env production\n")
    code, rest = _end(_spawn("--script", str(path)))
    assert code == 2
    assert "add --yes" in rest


def test_a_table_on_a_terminal_has_colour_unless_it_is_not_wanted(engine: Any, views: Any) -> None:
    engine.answers["/v1/rollouts"] = [views["rollout"](state="rolled_back")]
    _, with_colour = _end(_spawn("rollouts"))
    _, without = _end(_spawn("rollouts", NO_COLOR="1"))
    assert re.search(r"\x1b\[[0-9;]*31m", with_colour)
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", without)
    assert "rolled_back" in without


def test_a_hostile_name_cannot_steer_the_terminal(engine: Any, views: Any) -> None:
    engine.answers["/v1/rollouts"] = [views["rollout"](created_by="\x1b]0;owned\x07[red]x[/red]")]
    _, shown = _end(_spawn("rollouts", NO_COLOR="1"))
    assert "\x1b]0;" not in shown
    assert "[red]x" in shown


def test_the_console_without_an_engine_says_how_to_start_one(workspace: Any) -> None:
    child = _spawn()
    child.expect("airboss up -d", timeout=60)
    child.send("q")
    child.sendcontrol("q")
    child.expect(pexpect.EOF, timeout=30)


def test_a_dumb_terminal_is_pointed_elsewhere(engine: Any) -> None:
    code, shown = _end(_spawn(TERM="dumb"))
    assert code == 2
    assert "--script" in shown
