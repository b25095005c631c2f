"""Completion in real shells: nouns, verbs, options, and the names of what is there; no engine is started for it."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pexpect
import pytest
from sqlmodel import Session

from state.models import Release, Rollout
from state.store import Store

BIN = Path(sys.executable).parent


def press_tab(line: str, timeout_s: float = 20.0, **env: str) -> list[str]:
    """What bash offers when TAB is pressed behind `line`: the words of its own completion, by its own function."""
    words = line.split(" ")
    quoted = " ".join(shlex.quote(word) for word in words)
    program = (
        'eval "$(airboss completion bash)"\n'
        f"COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}\n"
        '_airboss_completion airboss; for one in "${COMPREPLY[@]}"; do echo "$one"; done'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", program], capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL,
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", **env},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split("\n")[:-1]


@pytest.fixture
def shop(workspace: Any) -> Any:
    """The workspace, with two releases and two rollouts in its store, and no engine."""
    workspace.make()
    store = Store.open(workspace.store)

    def fill(session: Session) -> None:
        for n, name in enumerate(("charlm-1", "charlm-2", "b\x1b[31mad")):
            session.add(Release(id=name, service="chat", lifecycle="Staging", model_name="chat", model_version=str(n),
                                digest=str(n) * 64, bundle_path="/", created_by="user:ana", created_at=float(n)))  # fmt: skip
        for n, state in enumerate(("step_baking", "completed"), start=1):
            session.add(Rollout(id=f"ro-{n}", service="chat", env="production", strategy="canary", to_release="charlm-2",
                                from_release="charlm-1", state=state, created_by="user:ana", created_at=float(n),
                                target="local", state_since=0.0))  # fmt: skip

    store.write_now(fill)
    store.close()
    return workspace


@pytest.mark.parametrize(
    ("line", "has", "lacks"),
    [
        ("airboss ro", {"rollback", "rollout", "rollouts"}, {"deploy"}),
        ("airboss rollout ", {"list", "show", "promote", "hold"}, {"deploy"}),
        ("airboss -o ", {"json", "yaml"}, {"deploy"}),
        ("airboss deploy ch", {"chat"}, set()),
        ("airboss deploy chat ", {"charlm-1", "charlm-2"}, {"chat"}),
        ("airboss deploy chat charlm-2 --env prod", {"production"}, set()),
        ("airboss deploy chat charlm-2 --str", {"--strategy"}, {"--steps"}),
        ("airboss deploy --wait chat charlm-2 --env ", {"production"}, set()),
        ("airboss rollback chat --to charlm", {"charlm-1", "charlm-2"}, set()),
        ("airboss rollout promote ", {"ro-1", "ro-2"}, {"chat"}),
        ("airboss rollouts --e", {"--env"}, set()),
        ("airboss rollout hold rollout/", {"rollout/ro-1"}, {"chat"}),
        ("airboss lineage rel", {"release/charlm-1"}, {"charlm-1"}),
        ("airboss help ret", {"retries"}, set()),
        ("airboss access can rollout.prom", {"rollout.promote", "rollout.promote_full"}, set()),
        ("airboss completion ", {"bash", "zsh", "fish"}, set()),
    ],
)  # fmt: skip
def test_bash_offers_what_may_stand_there(shop: Any, line: str, has: set[str], lacks: set[str]) -> None:
    offered = press_tab(line)
    assert has <= set(offered) and not lacks & set(offered)
    assert not any("\x1b" in one for one in offered)


@pytest.mark.parametrize(
    "line", ["airboss rollout show nothing", "airboss nonsense ", "airboss run show ", "airboss --no"]
)
def test_where_nothing_may_stand_nothing_is_offered(shop: Any, line: str) -> None:
    assert press_tab(line) == []


def test_a_rollout_that_goes_on_stands_first(shop: Any) -> None:
    assert press_tab("airboss rollout promote ro-") == ["ro-1", "ro-2"]


def test_another_workspace_on_the_line_is_the_one_asked(
    shop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert press_tab("airboss release show char") == []
    assert press_tab(f"airboss --workspace {shop.root} release show char") == ["charlm-2", "charlm-1"]


def test_no_engine_is_started_and_nothing_is_left(shop: Any) -> None:
    before = sorted(p.name for p in shop.root.rglob("*"))
    press_tab("airboss rollout promote ")
    assert sorted(p.name for p in shop.root.rglob("*") if not p.name.startswith("state.db-")) == before
    assert not shop.engine_socket.exists() and not shop.engine_info.exists()


def test_an_engine_elsewhere_is_asked_for_its_names(engine: Any) -> None:
    assert press_tab(f"airboss --engine unix:{engine.socket} rollout promote ") == ["ro-3"]


@pytest.mark.parametrize("scheme", ["unix", "http"])
def test_an_engine_that_is_silent_keeps_no_prompt_waiting(workspace: Any, tmp_path: Path, scheme: str) -> None:
    with socket.socket(socket.AF_UNIX if scheme == "unix" else socket.AF_INET) as silent:
        silent.bind(str(workspace.root / "s") if scheme == "unix" else ("127.0.0.1", 0))
        silent.listen()
        where = f"unix:{silent.getsockname()}" if scheme == "unix" else f"http://127.0.0.1:{silent.getsockname()[1]}"
        begun = time.monotonic()
        assert press_tab(f"airboss --engine {where} rollout promote ", AIRBOSS_ENGINE=where) == []
        assert time.monotonic() - begun < 10, (
            "the answer is given up after 0.8 s; the rest is the start of Python, twice"
        )


def test_tab_in_a_living_bash(shop: Any) -> None:
    env: Any = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "PS1": "> ", "TERM": "dumb"}
    child = pexpect.spawn("bash", ["--norc", "--noprofile"], env=env, encoding="utf-8", timeout=30)
    child.sendline("bind 'set enable-bracketed-paste off'; eval \"$(airboss completion bash)\"; echo rea''dy")
    child.expect("ready")
    child.send("airboss rollout prom\t")
    child.expect("promote ")
    child.send("--rea\t")
    child.expect("--reason ")
    child.sendcontrol("c")
    child.send("airboss deploy ch\tcharlm-\t\t")
    child.expect("deploy chat charlm-")
    child.expect("charlm-2")
    child.sendcontrol("c")
    child.sendline("exit")
    child.expect(pexpect.EOF)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_take_their_script_and_ask_alike(shop: Any, airboss: Any, shell: str, tmp_path: Path) -> None:
    script = airboss("completion", shell).out
    asked = {"zsh": {"COMP_WORDS": "airboss deploy chat ", "COMP_CWORD": "3"},
             "fish": {"COMP_WORDS": "airboss deploy chat ", "COMP_CWORD": ""}}[shell]  # fmt: skip
    answer = airboss(**asked, _AIRBOSS_COMPLETE=f"{shell}_complete")
    assert answer.err == "" and "charlm-2" in answer.out and "chat Staging" in answer.out
    if (program := shutil.which(shell)) is None:
        assert "_AIRBOSS_COMPLETE" in script
        return
    file = tmp_path / "script"
    file.write_text(script)
    assert subprocess.run([program, "-n", str(file)], capture_output=True, check=False).returncode == 0
    if shell == "fish":
        env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
        code = f"source {file}; complete -C 'airboss deploy chat char'"
        done = subprocess.run([program, "-N", "-c", code], capture_output=True, text=True, env=env, timeout=30)
        assert {line.split("\t")[0] for line in done.stdout.splitlines()} == {"charlm-2", "charlm-1"}


@pytest.mark.parametrize("asked", ["tcsh_complete", "bash_other", "bash"])
def test_a_question_of_no_known_shell_is_refused_quietly(airboss: Any, asked: str) -> None:
    ran = airboss(_AIRBOSS_COMPLETE=asked)
    assert (ran.code, ran.out, ran.err) == (2, "", "")
