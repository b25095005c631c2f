"""The real `airboss`, off a terminal: exit codes, streams, signals, locales, imports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from state.paths import Paths
from state.words import (
    Conflict,
    Denied,
    GateRefused,
    OperationFailed,
    TimedOut,
    Unreachable,
    UsageError,
    WaitingForHuman,
)

AIRBOSS = Path(sys.executable).with_name("airboss")
HEAVY = ("textual", "torch", "mlflow", "kubernetes", "sqlmodel", "sqlalchemy")
Run = Callable[..., Any]


@pytest.mark.parametrize(
    ("kind", "exit"),
    [(OperationFailed, 1), (UsageError, 2), (Unreachable, 3), (TimedOut, 4), (WaitingForHuman, 5), (Conflict, 6), (Denied, 7),
     (GateRefused, 8)],
)  # fmt: skip
def test_each_error_of_the_engine_leaves_by_its_own_code(engine: Any, airboss: Run, kind: Any, exit: int) -> None:
    def refuse(request: dict[str, Any]) -> dict[str, Any]:
        raise kind("it moved on", hint="look again")

    engine.on_verb = refuse
    ran = airboss("rollout", "pause", "ro-3")
    assert (ran.code, ran.out) == (exit, "")
    assert ran.err == "airboss: error: it moved on\n  look again\n"
    ran = airboss("rollout", "pause", "ro-3", "-o", "json")
    assert ran.code == exit
    error = json.loads(ran.err)["error"]
    assert (error["exit"], error["message"], error["hint"], error["retryable"]) == (
        exit,
        "it moved on",
        "look again",
        kind.retryable,
    )


def test_a_verb_prints_a_sentence_or_an_envelope_or_its_object(engine: Any, airboss: Run) -> None:
    engine.on_verb = lambda request: {"message": "stands still"}
    assert airboss("rollout", "pause", "ro-3").out == "rollout/ro-3: stands still\n"
    assert airboss("rollout", "pause", "ro-3", "-o", "name").out == "rollout/ro-3\n"
    body = airboss("rollout", "pause", "ro-3", "-o", "json").json
    assert (body["apiVersion"], body["kind"], body["items"][0]["changed"]) == ("airboss/v1", "VerbResult", True)


def test_what_is_so_already_is_said_and_is_no_failure(engine: Any, airboss: Run) -> None:
    engine.on_verb = lambda request: {"changed": False, "message": "charlm-3 is live"}
    ran = airboss("rollout", "pause", "ro-3")
    assert (ran.code, ran.out) == (0, "rollout/ro-3: unchanged: charlm-3 is live\n")


def test_without_an_engine_a_verb_is_retryable_and_says_how_to_start_one(workspace: Paths, airboss: Run) -> None:
    ran = airboss("rollout", "pause", "ro-3")
    assert ran.code == 3
    assert "does not answer" in ran.err
    assert "airboss up -d" in ran.err


def test_a_rollback_without_an_engine_points_to_the_way_that_needs_none(workspace: Paths, airboss: Run) -> None:
    ran = airboss("rollback", "chat", "--env", "production", "--yes")
    assert ran.code == 3
    assert "nothing was rolled back" in ran.err
    assert "airboss rollback chat --env production --emergency" in ran.err


def test_a_place_that_is_no_workspace(tmp_path: Path, airboss: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRBOSS_WORKSPACE", raising=False)
    ran = airboss("status", "--workspace", str(tmp_path))
    assert ran.code == 2
    assert "is not an Airboss workspace" in ran.err
    assert "airboss init" in ran.err


def test_a_configuration_error_has_file_line_and_field(workspace: Paths, airboss: Run) -> None:
    (workspace.root / "airboss.toml").write_text("[gateway]\nlisten = 'nowhere'\nwrokers = 2\n")
    ran = airboss("config", "show")
    assert ran.code == 2
    lines = ran.err.splitlines()
    assert any(line.startswith("airboss: error: ") and "airboss.toml:3: gateway.wrokers" in line for line in lines)


def test_the_workspace_is_found_from_below_by_flag_and_by_environment(engine: Any, workspace: Paths, airboss: Run,
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    below = workspace.root / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert airboss("status", "-o", "name").out == "engine/running\n"
    monkeypatch.chdir("/")
    assert airboss("status", "-o", "name", AIRBOSS_WORKSPACE=str(workspace.root)).code == 0
    assert airboss("status", "-o", "name", "--workspace", str(workspace.root)).code == 0
    assert airboss("status", "-o", "name", "--engine", f"unix://{engine.socket}").code == 0


def test_status_is_one_screen(engine: Any, airboss: Run) -> None:
    ran = airboss("status")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert lines[0] == "workspace  shop  /srv/shop"
    assert (
        "chat     production  charlm-2  stable=charlm-2@75%   12.5  85 ms  0.12 %    91 %  ro-3     step_baking       1"
        in lines
    )
    assert airboss("status", "-o", "json").json["items"][0]["fleet"][0]["service"] == "chat"


def test_read_only_refuses_verbs_and_allows_plans_and_views(engine: Any, airboss: Run) -> None:
    assert airboss("rollout", "pause", "ro-3", "--read-only").code == 7
    assert airboss("rollout", "pause", "ro-3", AIRBOSS_READ_ONLY="1").code == 7
    assert airboss("rollout", "pause", "ro-3", "--read-only", "--dry-run").code == 0
    assert airboss("rollouts", "--read-only").code == 0
    assert [verb["dry_run"] for verb in engine.verbs] == [True]


def test_a_plan_is_shown_and_counted_on_request(engine: Any, airboss: Run) -> None:
    line = {"object": "production traffic", "field": "charlm-3", "before": "0 %", "after": "5 %"}
    plan = {"verb": "deploy", "ref": "service/chat", "lines": [line], "warnings": ["cold"], "expected_s": 90.0}
    engine.on_verb = lambda request: {"message": "would roll out", "plan": plan}
    words = ("deploy", "chat", "charlm-3", "--env", "production", "--dry-run")
    ran = airboss(*words)
    assert ran.code == 0
    assert ran.out == (
        "service/chat: would roll out\n\nOBJECT              FIELD     BEFORE  AFTER\nproduction traffic  charlm-3  0 %     5 %\n"
        "note: cold\ntakes about 1m30s\n"
    )
    assert airboss(*words, "--detailed-exitcode").code == 10


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        (("deploy", "chat", "charlm-3", "-e", "production"), "--confirm-name chat --yes"),
        (("deploy", "chat", "charlm-3", "-e", "production", "--yes"), "--confirm-name chat"),
        (("deploy", "chat", "charlm-3", "-e", "dev"), "--yes"),
        (("rollout", "promote", "ro-3", "--full", "--yes", "--confirm-name", "chat"), "--reason TEXT"),
        (("rollout", "abort", "ro-3"), "--yes"),
        (("rollback", "chat", "-e", "production"), "--yes"),
        (("down",), "--yes"),
        (("down", "--all"), "--confirm-name shop --yes --reason TEXT"),
    ],
)
def test_a_missing_confirmation_off_a_terminal_names_its_flags(
    engine: Any, airboss: Run, words: tuple[str, ...], missing: str
) -> None:
    ran = airboss(*words)
    assert ran.code == 2
    assert ran.err.endswith(f"  add {missing}\n")
    assert engine.verbs == []


def test_a_wrong_name_confirms_nothing(engine: Any, airboss: Run) -> None:
    ran = airboss("deploy", "chat", "charlm-3", "-e", "production", "--yes", "--confirm-name", "chta")
    assert ran.code == 2
    assert "it is chat" in ran.err
    assert engine.verbs == []


def test_a_service_in_several_environments_needs_one_said(engine: Any, airboss: Run) -> None:
    ran = airboss("deploy", "chat", "charlm-3", "--yes")
    assert ran.code == 2
    assert "dev, production" in ran.err
    # Only one of them has something live, so a rollback can only mean that one.
    assert airboss("rollback", "chat", "--yes").code == 0
    assert engine.verbs[-1]["args"] == {"env": "production"}


def test_nobody_reading_stdout_is_quiet(engine: Any, views: Any) -> None:
    engine.answers["/v1/rollouts"] = [views["rollout"](id=f"ro-{n}") for n in range(3000)]
    process = subprocess.Popen([str(AIRBOSS), "rollouts"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert process.wait(20) == 141


def test_a_full_disk_below_stdout_is_an_error(engine: Any) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([str(AIRBOSS), "rollouts"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=20)
    assert done.returncode == 1
    assert "No space left" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_a_wait_leaves_the_work_running_and_leaves_by_its_code(
    engine: Any, number: int, eventually: Run
) -> None:
    engine.on_verb = lambda request: {"ref": "rollout/ro-3"}
    process = subprocess.Popen([str(AIRBOSS), "rollout", "promote", "ro-3", "--yes", "--wait"], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)  # fmt: skip
    eventually(lambda: engine.asked.count("/v1/rollouts/ro-3") >= 2)
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert len(engine.verbs) == 1
    if number == signal.SIGINT:
        assert "rollout/ro-3 is left running" in err


def test_a_wait_ends_by_what_becomes_of_the_work(engine: Any, airboss: Run, views: Any) -> None:
    fail = {"at": 0.0, "step": 1, "kind": "FAIL", "sentence": "errors 4.0 % against 0.1 %"}
    ends = {
        0: {"state": "completed"},
        8: {"state": "rolled_back", "verdict": fail},
        5: {"state": "paused", "pause_reason": "no_data"},
    }
    for code, change in ends.items():
        engine.answers["/v1/rollouts/ro-3"] = views["rollout"](**change)
        ran = airboss("rollout", "promote", "ro-3", "--yes", "--wait", "-o", "json")
        assert ran.code == code
        assert ran.json["items"][0]["object"]["state"] == change["state"]
        errors = [json.loads(line)["error"] for line in ran.err.splitlines() if line.startswith('{"error"')]
        assert [error["exit"] for error in errors] == ([code] if code else [])


def test_a_wait_for_a_pause_is_met_by_it_and_a_timeout_says_where_it_stands(
    engine: Any, airboss: Run, views: Any
) -> None:
    ran = airboss("rollout", "promote", "ro-3", "--yes", "--wait", "--timeout", "0.3")
    assert ran.code == 4
    assert "step_baking, step 2 of 3, weight 25 %" in ran.err
    engine.answers["/v1/rollouts/ro-3"] = views["rollout"](state="paused")
    assert airboss("rollout", "promote", "ro-3", "--yes", "--wait=paused").code == 0
    assert airboss("rollout", "promote", "ro-3", "--yes", "--wait=asleep").code == 2


def test_a_watch_is_json_lines_until_the_end(engine: Any, airboss: Run, views: Any) -> None:
    states = iter(["step_baking", "promoting", "completed"])
    engine.answers["/v1/rollouts/ro-3"] = lambda query: views["rollout"](state=next(states, "completed"))
    lines = [json.loads(line) for line in airboss("rollout", "show", "ro-3", "--watch", "-o", "json").out.splitlines()]
    assert [(line["type"], line["seq"], line["object"]["state"]) for line in lines] == [
        ("ADDED", 1, "step_baking"), ("MODIFIED", 2, "promoting"), ("MODIFIED", 3, "completed")]  # fmt: skip


def test_a_log_is_read_to_its_end_and_followed(engine: Any, airboss: Run, views: Any) -> None:
    parts = ["one\n", "two\n", ""]

    def chunk(query: dict[str, str]) -> dict[str, Any]:
        at = int(query.get("offset", 0)) // 4
        return {"text": parts[at], "offset": at * 4, "next_offset": min(at + 1, 2) * 4, "is_over": at >= 1}

    engine.answers["/v1/runs/run-4/log/train"] = chunk
    assert airboss("run", "logs", "run-4", "train").out == "one\ntwo\n"
    assert airboss("run", "logs", "run-4", "train", "--tail", "1").out == "two\n"
    assert airboss("run", "logs", "run-4", "train", "--follow").out == "one\ntwo\n"
    assert airboss("run", "logs", "run-4", "nothing").code == 1


def test_no_colour_and_no_escape_in_a_pipe(engine: Any, airboss: Run) -> None:
    for env in ({}, {"FORCE_COLOR": "1", "TERM": "xterm-256color"}):
        assert "\x1b" not in airboss("status", **env).out


@pytest.mark.parametrize("locale", ["C", "POSIX", "C.utf8"])
def test_any_locale_gets_its_answer(engine: Any, airboss: Run, views: Any, locale: str) -> None:
    engine.answers["/v1/fleet"] = [views["fleet"](phase="čeká €")]
    for env in ({"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONIOENCODING": "ascii"}):
        ran = airboss("status", LC_ALL=locale, **env)
        assert ran.code == 0, ran.err
        assert (
            json.loads(airboss("status", "-o", "json", LC_ALL=locale, **env).out)["items"][0]["fleet"][0]["phase"]
            == "čeká €"
        )


def test_a_fault_of_the_console_is_one_line_and_no_traceback(engine: Any, airboss: Run) -> None:
    engine.answers["/v1/rollouts"] = [{"id": "ro-1"}]
    ran = airboss("rollouts")
    assert ran.code == 1
    assert ran.err.startswith("airboss: error: a fault of airboss itself at ")
    assert "Traceback" not in ran.err


def test_the_console_needs_a_terminal(engine: Any, airboss: Run) -> None:
    assert airboss().code == 2
    assert "needs a terminal" in airboss().err


@pytest.mark.parametrize("words", [["--help"], ["status"], ["rollouts", "-o", "json"], ["help", "verbs"], ["rollout", "pause", "ro-3"],
                                   ["--script", "-"]])  # fmt: skip
def test_what_scripts_use_never_imports_what_is_heavy(engine: Any, words: list[str]) -> None:
    code = (
        "import sys, console.cli\n"
        "try: console.cli.main(sys.argv[1:])\n"
        "except SystemExit as e: assert e.code == 0, e.code\n"
        f"found = sorted({{m.split('.')[0] for m in sys.modules}} & set({HEAVY!r}))\n"
        "sys.exit('imported: ' + ', '.join(found) if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], input="status\nexpect alerts.paging == 0\n", capture_output=True,
                          text=True, timeout=30)  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", [["--help"], ["status"], ["rollouts", "-o", "json"]])
def test_what_is_looked_at_in_a_hurry_imports_little(engine: Any, words: list[str]) -> None:
    code = (
        "import sys, console.cli; console.cli.run(sys.argv[1:]); print(*sorted({m.split('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=30, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert not loaded & {"pydantic", "httpx", "rich", "yaml", "sqlite3", "asyncio", "engine"}


def test_help_teaches(airboss: Run) -> None:
    ran = airboss("--help")
    assert (ran.code, ran.err) == (0, "")
    for word in ("deploy", "rollback", "Examples:", "airboss help TOPIC"):
        assert word in ran.out
    assert airboss("rollout", "promote", "-h").out == airboss("help", "rollout", "promote").out


@pytest.mark.parametrize(
    ("topic", "word"),
    [("exit-codes", "130"), ("options", "--confirm-name"), ("verbs", "rollout.promote_full"), ("roles", "approver"),
     ("rollouts", "rolling_back"), ("judge", "NO_DATA"), ("wait", "step=N"), ("scripts", "on-failure"), ("config", "latency_p95_ms"),
     ("keys", "roll"), ("emergency", ".airboss/spill")],
)  # fmt: skip
def test_help_topics(airboss: Run, topic: str, word: str) -> None:
    ran = airboss("help", topic)
    assert ran.code == 0
    assert word in ran.out


def test_an_unknown_topic_lists_what_there_is(airboss: Run) -> None:
    ran = airboss("help", "exitcodes")
    assert ran.code == 2
    assert "exit-codes" in ran.err


def test_ignored_hangups_stay_ignored(engine: Any) -> None:
    code = ("import signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN)\nimport console.cli\n"
            "try: console.cli.main(['status'])\nexcept SystemExit: pass\n"
            "sys.exit(signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN)")  # fmt: skip
    assert (
        subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, timeout=30, env=os.environ).returncode
        == 0
    )
