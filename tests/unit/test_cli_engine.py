"""`up` and `down` against small programs in the engine's place: one that answers, one that dies, one that hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from console.commands import starting
from state.locks import is_locked
from state.paths import Paths
from state.words import ConfigError, Conflict, OperationFailed, TimedOut

ANSWERS = """
import http.server, json, os, socketserver, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"ok": True, "version": "0.1.0", "pid": os.getpid()}).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def address_string(self): return "unix"
path = sys.argv[1]
os.makedirs(os.path.dirname(path), exist_ok=True)
print(os.getsid(0) == os.getpid(), sys.stdin.read() == "", flush=True)
socketserver.ThreadingUnixStreamServer(path, Handler).serve_forever()
"""


@pytest.fixture
def started() -> Iterator[list[int]]:
    """Pids to end when the test is over."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def _instead(monkeypatch: pytest.MonkeyPatch, code: str, *words: str) -> None:
    monkeypatch.setattr(starting, "command", lambda root: [sys.executable, "-c", code, *words])


def test_a_daemon_is_waited_for_and_is_in_a_session_of_its_own(workspace: Paths, monkeypatch: pytest.MonkeyPatch,
                                                              started: list[int]) -> None:  # fmt: skip
    _instead(monkeypatch, ANSWERS, str(workspace.engine_socket))
    answer = starting.start_engine(workspace, 20)
    started.append(answer["pid"])
    assert (workspace.logs / "engine.log").read_text().splitlines()[0] == "True True"
    assert starting.ensure_engine(workspace)["pid"] == answer["pid"]


def test_an_engine_that_dies_gives_its_own_error_with_its_last_words(workspace: Paths, monkeypatch: pytest.MonkeyPatch,
                                                                    capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    error = '{"error": {"code": "lock", "exit": 6, "message": "another engine has this workspace", "hint": "stop it"}}'
    _instead(monkeypatch, f"import sys; print('opening'); print('''{error}'''); sys.exit(6)")
    with pytest.raises(Conflict, match="another engine has this workspace"):
        starting.start_engine(workspace, 20)
    assert "opening" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "says"), [("raise SystemExit(1)", "exit code 1"), ("import os; os.kill(os.getpid(), 9)", "signal 9")]
)
def test_an_engine_that_dies_without_a_word(
    workspace: Paths, monkeypatch: pytest.MonkeyPatch, code: str, says: str
) -> None:
    _instead(monkeypatch, code)
    with pytest.raises(OperationFailed, match=says) as caught:
        starting.start_engine(workspace, 20)
    assert "engine.log" in caught.value.hint


def test_an_engine_that_never_answers_is_a_timeout(workspace: Paths, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                                  started: list[int], eventually: Callable[..., Any]) -> None:  # fmt: skip
    pid = tmp_path / "pid"
    _instead(monkeypatch, f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(60)")
    begin = time.monotonic()
    with pytest.raises(TimedOut, match="does not answer"):
        starting.start_engine(workspace, 0.5)
    assert time.monotonic() - begin < 10
    started.append(int(eventually(lambda: pid.exists() and pid.read_text())))


def test_a_wrong_configuration_starts_nothing(workspace: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    (workspace.root / "airboss.toml").write_text("[gateway]\nworkers = 'two'\n")
    _instead(monkeypatch, "raise SystemExit('started')")
    with pytest.raises(ConfigError, match=r"airboss.toml:2: gateway.workers"):
        starting.start_engine(workspace, 5)
    assert not (workspace.logs / "engine.log").exists()


def test_up_on_a_running_engine_is_unchanged_and_in_the_foreground_a_conflict(
    engine: Any, airboss: Callable[..., Any]
) -> None:
    ran = airboss("up", "-d")
    assert ran.code == 0
    assert ran.out.startswith("unchanged: the engine runs, pid ")
    assert airboss("up").code == 6


def test_down_without_an_engine_is_unchanged(workspace: Paths, airboss: Callable[..., Any]) -> None:
    ran = airboss("down")
    assert ran.code == 0
    assert ran.out == "unchanged: no engine runs\n\nstill running: nothing\n"


HOLDS = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(fd, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read(1)
"""


@pytest.fixture
def silent(workspace: Paths) -> Iterator[subprocess.Popen[bytes]]:
    """An engine that has the workspace and answers nobody, as one does that begins, ends or starves; a byte ends it."""
    workspace.engine_lock.parent.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-c", HOLDS, str(workspace.engine_lock)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_down_waits_for_an_engine_that_is_silent_and_takes_it_for_none_only_once_it_let_go(
    workspace: Paths, airboss: Callable[..., Any], silent: subprocess.Popen[bytes]
) -> None:
    assert silent.stdin is not None
    ending = threading.Timer(1.0, silent.stdin.close)
    ending.start()
    ran = airboss("down", "--all", "--yes", "--confirm-name", "shop", "--reason", "x")
    assert (ran.code, ran.out) == (0, "unchanged: no engine runs\n\nstill running: nothing\n")
    assert not is_locked(workspace.engine_lock)
    ending.join()


def test_down_says_of_an_engine_that_stays_silent_that_it_may_be_stuck(
    airboss: Callable[..., Any], silent: subprocess.Popen[bytes]
) -> None:
    ran = airboss("down", "--all", "--yes", "--confirm-name", "shop", "--reason", "x", "--timeout", "0.2s")
    assert ran.code == 4
    assert "does not answer" in ran.err and "engine.log" in ran.err
