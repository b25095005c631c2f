"""The headless runner: read and checked whole before the first line runs, then one line after the other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from console.commands.requests import Options
from console.commands.script_lines import expand, read
from console.script import Script
from state.words import AirbossError, Conflict, UsageError

Run = Callable[..., Any]


def _check(text: str, **settings: str) -> str:
    """What is wrong with a script; "" when nothing is."""
    try:
        Script(read(text), Options(), settings).check(lambda env: env == "production")
    except UsageError as error:
        return error.message
    return ""


def test_comments_and_joined_lines() -> None:
    lines = read(
        "# head\n\n  status   # tail\necho 'a # b'\ndeploy chat \\\n   charlm-3 \\\n --env dev\nexpect alerts.names ~ '#1'\n"
    )
    assert [(line.number, line.text) for line in lines] == [
        (3, "status"),
        (4, "echo 'a # b'"),
        (5, "deploy chat     charlm-3   --env dev"),
        (8, "expect alerts.names ~ '#1'"),
    ]


def test_a_good_script_has_nothing_wrong() -> None:
    text = """
        let REL = charlm-3
        let WAS = {service/chat@production.release_id}
        deploy chat $REL --env production --yes --confirm-name chat
        wait $LAST --for step=2 --timeout 5m
        wait $LAST --for succeeded
        wait service/chat@production --for "rps > 10"
        on-failure rollback chat --env production --to ${WAS} --yes
        set +e
        expect service/chat@production.budget_left >= 0.2 and $LAST.state == completed
        set -e
        echo costs $$5 for $REL
        sleep 1s
        on-failure none
        rollouts @production
    """
    assert _check(text) == ""


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("deplyo chat x", "there is no command 'deplyo'; did you mean deploy"),
        ("deploy chat $REL --env dev --yes", "$REL is not set"),
        ("deploy chat r --env dev", "deploy must be confirmed: add --yes"),
        ("deploy chat r --env production --yes", "add --confirm-name NAME"),
        ("rollout promote ro-1 --full", "add --yes --confirm-name NAME"),
        ("wait rollout/ro-1 --for finished", "'finished' is nothing that a rollout comes to"),
        ("wait $LAST --for finished", "'finished' is nothing that a rollout comes to"),
        ("wait rollout/ro-1", "wait REF --for COND"),
        ("wait rollout/ro-1 --for done --timeout soon", "is not a duration"),
        ("expect rollout/ro-1.state =", "cannot be read"),
        ("let 1A = x", "let NAME = VALUE"),
        ("let A = {nonsense}", "is no field"),
        ("set -x", "only -e"),
        ("sleep long", "is not a duration"),
        ("on-failure", "a verb is missing"),
        ("run logs run-1 --follow", "a script cannot watch"),
        ("demo", "the demo cannot run inside a script"),
        ("--script other", "a script cannot run inside a script"),
        ("status --help", "--help has no place"),
    ],
)
def test_a_wrong_line_is_named_before_anything_runs(line: str, says: str) -> None:
    found = _check(f"status\n{line}\n")
    assert found.startswith("line 2: ")
    assert says in found


def test_every_wrong_line_is_told_at_once() -> None:
    assert [part.split(":")[0] for part in _check("foo\nstatus\nbar\n").splitlines()] == ["line 1", "line 3"]


def test_a_last_line_that_goes_on_is_refused() -> None:
    with pytest.raises(UsageError, match="line 1"):
        read("status \\\n")


def test_variables() -> None:
    assert expand("$A-${B}$$ $C_1", {"A": "x", "B": "y", "C_1": "z"}) == "x-y$ z"
    assert _check("deploy chat $REL --env dev --yes", REL="charlm-3") == ""


def test_nothing_runs_when_a_later_line_is_wrong(engine: Any, airboss: Run) -> None:
    ran = airboss("--script", "-", stdin="rollout pause ro-3\nrollout paus ro-3\n")
    assert ran.code == 2
    assert "line 2: " in ran.err
    assert "nothing was run" in ran.err
    assert engine.verbs == []


def _refusing(verb: str, error: AirbossError) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def answer(request: dict[str, Any]) -> dict[str, Any]:
        if request["verb"] == verb:
            raise error
        return {}

    return answer


SCRIPT = """\
let REL = charlm-3
deploy chat $REL --env production --yes --confirm-name chat
wait $LAST --for completed --timeout 20s
let WAS = {service/chat@production.release_id}
expect service/chat@production.release_id == charlm-2
echo $WAS then $REL
note $LAST done
"""


def test_a_script_deploys_waits_expects_and_speaks(engine: Any, airboss: Run, views: Any, tmp_path: Path) -> None:
    states = iter(["preparing", "step_baking", "completed"])
    engine.answers["/v1/rollouts/ro-9"] = lambda query: views["rollout"](id="ro-9", state=next(states, "completed"))
    engine.on_verb = lambda request: {"ref": "rollout/ro-9"}
    path = tmp_path / "go.abs"
    path.write_text(SCRIPT)
    ran = airboss("--script", str(path))
    assert ran.code == 0, ran.err
    assert ran.out.splitlines() == ["rollout/ro-9: done", "charlm-2 then charlm-3", "rollout/ro-9: done"]
    assert [(v["verb"], v["ref"]) for v in engine.verbs] == [("deploy", "service/chat"), ("note", "rollout/ro-9")]
    assert engine.verbs[0]["args"] == {"release": "charlm-3", "env": "production"}


def test_each_line_is_one_event_under_json(engine: Any, airboss: Run, views: Any) -> None:
    engine.answers["/v1/rollouts/ro-9"] = views["rollout"](id="ro-9", state="completed")
    engine.on_verb = lambda request: {"ref": "rollout/ro-9"}
    ran = airboss("--script", "-", "-o", "json", stdin=SCRIPT)
    events = [json.loads(line) for line in ran.out.splitlines()]
    assert (ran.code, ran.err) == (0, "")
    assert [e["line"] for e in events] == [1, 2, 3, 4, 5, 6, 7]
    assert [e["seq"] for e in events] == [1, 2, 3, 4, 5, 6, 7]
    assert all(e["ok"] and e["exit"] == 0 and e["type"] == "LINE" for e in events)
    assert [e["kind"] for e in events] == [
        "Variable",
        "VerbResult",
        "Rollout",
        "Variable",
        "Expectation",
        "Echo",
        "VerbResult",
    ]
    assert events[2]["items"][0]["state"] == "completed"


def test_it_stops_at_a_failed_line_with_its_code(engine: Any, airboss: Run) -> None:
    engine.on_verb = _refusing("rollout.promote", Conflict("it is paused", hint="resume it"))
    ran = airboss("--script", "-", stdin="rollout promote ro-3 --yes\nnote rollout/ro-3 never\n")
    assert ran.code == 6
    assert "line 1: it is paused" in ran.err
    assert [v["verb"] for v in engine.verbs] == ["rollout.promote"]


def test_after_set_plus_e_a_failed_line_is_told_and_passed_over(engine: Any, airboss: Run) -> None:
    text = "set +e\nexpect alerts.paging > 0\nset -e\nnote rollout/ro-3 reached\n"
    ran = airboss("--script", "-", stdin=text)
    assert ran.code == 0
    assert "it does not hold that alerts.paging > 0: alerts.paging is 0" in ran.err
    assert [v["verb"] for v in engine.verbs] == ["note"]


def test_an_expectation_that_fails_is_a_gate(engine: Any, airboss: Run) -> None:
    assert airboss("--script", "-", stdin="expect service/chat@production.error_ratio < 0.001\n").code == 8


def test_a_dry_run_changes_nothing_and_waits_for_nothing(engine: Any, airboss: Run) -> None:
    text = SCRIPT + "sleep 1h\n"
    assert airboss("--script", "-", "--dry-run", stdin=text).code == 0
    assert {v["dry_run"] for v in engine.verbs} == {True}


def test_settings_win_over_let_and_yes_may_be_said_once_for_all(engine: Any, airboss: Run) -> None:
    text = "let REL = charlm-1\ndeploy chat $REL --env dev\n"
    assert airboss("--script", "-", "--set", "REL=charlm-7", "--yes", stdin=text).code == 0
    assert (engine.verbs[0]["args"]["release"], engine.verbs[0]["yes"]) == ("charlm-7", True)


def test_a_script_that_is_not_there(workspace: Any, airboss: Run) -> None:
    ran = airboss("--script", "gone.abs")
    assert ran.code == 2
    assert "gone.abs cannot be read" in ran.err


def test_a_script_and_a_command_do_not_go_together(workspace: Any, airboss: Run) -> None:
    assert airboss("--script", "x", "status").code == 2
