"""The console in a real tmux: what `airboss help ssh` says of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHILD = """
import sys
from console.client import EngineClient
from console.tui.app import run_console
sys.exit(run_console(lambda: EngineClient.at_socket(sys.argv[1])))
"""
IS_REQUIRED = os.environ.get("AIRBOSS_REQUIRE_SERVERS") == "1"
pytestmark = pytest.mark.skipif(
    shutil.which("tmux") is None and not IS_REQUIRED, reason="tmux is not installed (apt-get install tmux)"
)


class Tmux:
    """A tmux server of its own with one window of 100×30."""

    def __init__(self, socket: Path, conf: str) -> None:
        self.socket = socket
        file = socket.with_suffix(".conf")
        file.write_text(conf)
        self.base = ["tmux", "-S", str(socket), "-f", str(file)]

    def run(self, *words: str, check: bool = True) -> str:
        """One tmux command."""
        env = {k: v for k, v in os.environ.items() if k not in ("TMUX", "NO_COLOR")} | {
            "TERM": "xterm-256color",
            "LANG": "C.UTF-8",
        }
        done = subprocess.run([*self.base, *words], capture_output=True, text=True, env=env, timeout=20, check=False)
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout

    def until(self, claim: Callable[[], bool], timeout_s: float = 30.0) -> None:
        """Wait until something is so; fails with what the window shows."""
        deadline = time.monotonic() + timeout_s
        while not claim():
            assert time.monotonic() < deadline, self.run("capture-pane", "-p")
            time.sleep(0.05)

    def shows(self, *texts: str) -> None:
        """Wait until all of these are in the window."""
        self.until(lambda: all(text in self.run("capture-pane", "-p") for text in texts))


@pytest.fixture
def tmux(engine: Any, tmp_path: Path) -> Iterator[Callable[[str], Tmux]]:
    made: list[Tmux] = []

    def start(conf: str) -> Tmux:
        one = Tmux(tmp_path / "tmux.sock", conf)
        made.append(one)
        child = tmp_path / "child.py"
        child.write_text(CHILD)
        one.run(
            "new-session",
            "-d",
            "-x",
            "100",
            "-y",
            "30",
            f"PYTHONPATH={ROOT} {sys.executable} {child} {engine.socket_path}",
        )
        return one

    yield start
    for one in made:
        one.run("kill-server", check=False)


CONF = 'set -g default-terminal "tmux-256color"\nset -s escape-time 20\nset -s set-clipboard {clipboard}\n'


@pytest.mark.parametrize(("clipboard", "passes"), [("on", True), ("external", False)])
def test_the_clipboard_passes_tmux_when_it_is_let(tmux: Callable[[str], Tmux], clipboard: str, passes: bool) -> None:
    t = tmux(CONF.format(clipboard=clipboard))
    t.shows("airboss", "chat", "production", "? help")
    t.run("send-keys", "c")
    t.shows("copied service/chat")
    if passes:
        t.until(lambda: t.run("show-buffer", check=False) == "service/chat")
    else:
        assert t.run("list-buffers") == ""


def test_in_tmux_arrows_and_escape_are_what_they_are_and_a_detach_stops_nothing(tmux: Callable[[str], Tmux]) -> None:
    t = tmux(CONF.format(clipboard="on"))
    t.shows("airboss", "chat", "? help")
    t.run("send-keys", "2", "Down", "Enter")
    t.shows("steps", "verdict")
    t.run("send-keys", "Escape")
    t.shows("ro-2", "ro-1")
    t.run("detach-client", check=False)
    t.run("resize-window", "-x", "80", "-y", "24")
    t.shows("ro-1")
    t.run("send-keys", "q")
    t.until(lambda: t.run("list-sessions", check=False) == "")
