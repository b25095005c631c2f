"""What a script learns from its lines: references, outcomes, and the JUnit report of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import pytest

Run = Callable[..., Any]
DEPLOY = "let RO = deploy chat charlm-3 --env production --yes --confirm-name chat\n"


def test_let_takes_the_reference_of_what_a_command_made(engine: Any, airboss: Run, views: Any) -> None:
    engine.answers["/v1/rollouts/ro-9"] = views["rollout"](id="ro-9", state="completed", weight=100)
    engine.on_verb = lambda request: {"ref": "rollout/ro-9"}
    text = (
        DEPLOY + "wait $RO --for completed\nlet W = rollout show $RO | .weight\necho $RO $W $OUTCOME\nnote $RO done\n"
    )
    ran = airboss("--script", "-", stdin=text)
    assert ran.code == 0, ran.err
    assert "rollout/ro-9 100 completed" in ran.out
    assert [v["ref"] for v in engine.verbs] == ["service/chat", "rollout/ro-9"]


def test_let_of_a_list_takes_the_first_and_of_nothing_fails(engine: Any, airboss: Run) -> None:
    ran = airboss("--script", "-", "-o", "json", stdin="let R = rollout list\necho $R\nlet X = release list\n")
    events = [json.loads(line) for line in ran.out.splitlines()]
    assert events[1]["items"] == [{"text": "rollout/ro-3"}]
    assert (ran.code, events[2]["error"]["message"]) == (1, "`release list` found nothing for $X")


def test_text_stays_text(engine: Any, airboss: Run) -> None:
    assert (
        airboss("--script", "-", stdin="let A = status\nlet B = 'deploy it'\necho $A $B\n").out == "status deploy it\n"
    )


def test_a_command_that_let_runs_is_checked_first(engine: Any, airboss: Run) -> None:
    ran = airboss("--script", "-", stdin="let R = deploy chat r --env production\n")
    assert (ran.code, engine.verbs) == (2, [])
    assert "must be confirmed" in ran.err


def test_a_deploy_of_what_is_live_leaves_nothing_to_wait_for(engine: Any, airboss: Run) -> None:
    engine.on_verb = lambda request: {"changed": False, "message": "unchanged: charlm-3 is live"}
    assert airboss("--script", "-", stdin=DEPLOY + "wait $RO --for completed\n").code == 0


@pytest.mark.parametrize(
    ("facts", "code", "word"),
    [
        ({"state": "rolled_back", "weight": 0, "verdict": {"kind": "FAIL", "sentence": "slow"}}, 8, "rolled_back"),
        ({"state": "rolled_back", "weight": 0}, 1, "rolled_back"),
        ({"state": "cancelled", "weight": 0}, 1, "cancelled"),
        ({"state": "step_baking", "weight": 25}, 4, "still_live"),
        ({"state": "preparing", "weight": 0}, 4, "not_live"),
        ({"state": "paused", "weight": 25}, 5, "still_live"),
    ],
)
def test_each_end_of_a_wait_is_told_apart(
    engine: Any, airboss: Run, views: Any, facts: dict[str, Any], code: int, word: str
) -> None:
    engine.answers["/v1/rollouts/ro-3"] = views["rollout"](**facts)
    timeout = " --timeout 100ms" if code == 4 else ""
    text = f"set +e\nwait rollout/ro-3 --for completed{timeout}\nset -e\nexpect $OUTCOME == {word}\n"
    ran = airboss("--script", "-", "-o", "json", stdin=text)
    events = [json.loads(line) for line in ran.out.splitlines()]
    assert (ran.code, events[1]["exit"], events[1]["outcome"]) == (0, code, word)


def test_the_junit_report_has_a_case_for_each_line(engine: Any, airboss: Run) -> None:
    text = "status\nexpect alerts.paging > 0\nnote rollout/ro-3 never\n"
    ran = airboss("--script", "-", "-o", "junit", stdin=text)
    suite = ElementTree.fromstring(ran.out.split("\n", 1)[1])[0]
    assert ran.code == 8
    assert [suite.get(name) for name in ("tests", "failures", "errors", "skipped")] == ["3", "1", "0", "1"]
    assert [[fault.tag for fault in case] for case in suite] == [[], ["failure"], ["skipped"]]
    assert "alerts.paging is 0" in (suite[1][0].get("message") or "")
    assert all(float(case.get("time") or -1) >= 0 for case in suite)


def test_junit_is_for_scripts_only(engine: Any, airboss: Run) -> None:
    assert airboss("status", "-o", "junit").code == 2
