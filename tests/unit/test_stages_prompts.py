"""Prompt regression: each kind of assertion holds and fails, and nothing passes by silence."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from engine.pipelines.stages.prompts import Case, ask, judge, main

SCHEMA = {"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}}


def says(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


@pytest.mark.parametrize(
    ("asserts", "good", "bad"),
    [
        ({"exact": "Paris"}, " Paris\n", "Paris."),
        ({"regex": r"(?i)\bparis\b"}, "It is Paris.", "It is Parish."),
        ({"json_schema": SCHEMA}, '```json\n{"city": "Paris"}\n```', '{"city": 7}'),
        ({"json_schema": SCHEMA}, '{"city": "Paris"}', "Paris"),
        (
            {"similar": "the capital of France is Paris", "at_least": 0.7},
            "the capital of France is Lyon",
            "no idea at all",
        ),
        (
            {"judge": says("import json, sys; print(json.dumps({'ok': 'Paris' in json.load(sys.stdin)['answer']}))")},
            "Paris",
            "Rome",
        ),
    ],
)
def test_an_assertion_holds_for_the_one_and_not_for_the_other(asserts: dict[str, Any], good: str, bad: str) -> None:
    case = Case(name="capital", prompt="Capital of France?", **asserts)
    (kind,) = (name for name in asserts if name != "at_least")
    assert judge(case, good).failed == {}
    assert set(judge(case, bad).failed) == {kind}
    assert set(judge(case, None).failed) == {"answer"}


@pytest.mark.parametrize("code", ["raise SystemExit(3)", "print('yes')", "print('{\"ok\": 1}')"])
def test_a_judge_that_gives_no_word_is_no_pass(code: str) -> None:
    assert "gave no word" in judge(Case(name="x", prompt="y", judge=says(code)), "z").failed["judge"]
    assert "gave no word" in judge(Case(name="x", prompt="y", judge=("/no/such/judge",)), "z").failed["judge"]


def test_a_service_that_cannot_be_asked_has_no_answer() -> None:
    assert ask("http://127.0.0.1:1", "chat", Case(name="x", prompt="y", exact="z")) is None


def test_a_set_is_judged_and_compared_with_its_last_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "city.json").write_text(json.dumps(SCHEMA))
    (tmp_path / "set.toml").write_text(
        'name = "support"\nversion = 2\n[[case]]\nname = "greets"\nprompt = "Hello"\nregex = "^Hi"\n'
        '[[case]]\nname = "city"\nprompt = "Where?"\njson_schema = "city.json"\n[[case]]\nname = "new"\nprompt = "?"\nexact = "!"\n'
    )
    (tmp_path / "answers.json").write_text(json.dumps({"greets": "Hi there", "city": "Rome"}))
    last = {"set": "support/1", "cases": [{"name": "greets", "failed": {}}, {"name": "city", "failed": {}}]}
    (tmp_path / "last.json").write_text(json.dumps(last))
    words = [str(tmp_path / "set.toml"), "--answers", str(tmp_path / "answers.json"), "--metrics", str(tmp_path / "m.json"),
             "--results", str(tmp_path / "now.json")]  # fmt: skip
    assert main([*words, "--before", str(tmp_path / "last.json")]) == 0
    found = json.loads((tmp_path / "m.json").read_text())
    assert (
        found["cases"],
        found["failed"],
        found["failed_json_schema"],
        found["failed_answer"],
        found["regressions"],
    ) == (3, 2, 1, 1, 1)
    assert "city: json_schema: is no JSON" in capsys.readouterr().out
    assert json.loads((tmp_path / "now.json").read_text())["set"] == "support/2"
    assert main([*words, "--before", str(tmp_path / "none.json")]) == 0
    assert "regressions" not in json.loads(
        (tmp_path / "m.json").read_text()
    )  # a gate on it fails closed: nothing is known


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ('name = "a"\nversion = 1\n[[case]]\nname = "x"\nprompt = "y"\n', "asserts nothing"),
        ('name = "a"\nversion = 1\n' + '[[case]]\nname = "x"\nprompt = "y"\nexact = "z"\n' * 2, "one name"),
        ('name = "a"\nversion = 1\n[[case]]\nname = "x"\nprompt = "y"\nregex = "("\n', "no regular expression"),
        ('name = "a"\nversion = 1\n', "Field required"),
    ],
)
def test_a_set_that_proves_nothing_is_refused(
    tmp_path: Path, text: str, wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "set.toml").write_text(text)
    (tmp_path / "a.json").write_text("{}")
    assert (
        main([str(tmp_path / "set.toml"), "--answers", str(tmp_path / "a.json"), "--metrics", str(tmp_path / "m.json")])
        == 1
    )
    assert not (tmp_path / "m.json").exists()
    assert wrong in capsys.readouterr().err
