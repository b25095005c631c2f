"""The real console in a real terminal: what a pilot cannot see."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pexpect
import pyte
import pytest

ROOT = Path(__file__).resolve().parents[2]
CHILD = """
import sys
from console.client import EngineClient
from console.tui.app import run_console
sys.exit(run_console(lambda: EngineClient.at_socket(sys.argv[1])))
"""


class Terminal:
    """A pty with the console in it and a screen that understands what it writes."""

    def __init__(
        self,
        socket_path: Path,
        *,
        size: tuple[int, int] = (100, 30),
        env: dict[str, str] | None = None,
        shell: str = "",
        code: str = CHILD,
    ) -> None:
        columns, lines = size
        self.screen = pyte.Screen(columns, lines)
        self.stream = pyte.ByteStream(self.screen)
        self.seen = 0
        full = {
            **os.environ,
            "TERM": "xterm-256color",
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "",
            "LINES": "",
            **(env or {}),
        }
        if "NO_COLOR" not in (env or {}):
            full.pop("NO_COLOR", None)
        command, args = sys.executable, ["-c", code, str(socket_path)]
        if shell:
            command, args = "/bin/sh", ["-c", shell, "sh", sys.executable, "-c", CHILD, str(socket_path)]
        self.child = pexpect.spawn(command, args, dimensions=(lines, columns), env=full, cwd=str(ROOT), timeout=5)
        self.child.delaybeforesend = None

    @property
    def text(self) -> str:
        """What is on the screen."""
        return "\n".join(self.screen.display)

    def read(self, for_s: float = 0.05) -> int:
        """Take what the console writes for a while; bytes taken."""
        before, deadline = self.seen, time.monotonic() + for_s
        while (left := deadline - time.monotonic()) > 0:
            try:
                data = self.child.read_nonblocking(65536, timeout=left)
            except pexpect.TIMEOUT:
                break
            except pexpect.EOF:
                break
            self.seen += len(data)
            # The screen of pyte does not know the private-mode queries that textual sends.
            self.stream.feed(
                re.sub(rb"\x1b\[[?>=][0-9;$]*[a-z]", lambda m: m.group() if m.group()[-1:] in b"hl" else b"", data)
            )
        return self.seen - before

    def until(self, condition: Callable[[], bool], timeout_s: float = 12.0) -> None:
        """Wait until something is so; fails with the screen."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"it never came to be; the terminal:\n{self.text}")
            self.read()

    def shows(self, *texts: str) -> None:
        """Wait until all of these are on the screen."""
        self.until(lambda: all(text in self.text for text in texts))

    def send(self, data: str | bytes) -> None:
        """Write to the terminal in one piece."""
        self.child.send(data)

    def exit_code(self, timeout_s: float = 6.0) -> int:
        """Wait for the end."""
        deadline = time.monotonic() + timeout_s
        while self.child.isalive():
            if time.monotonic() > deadline:
                pytest.fail(f"it did not end; the terminal:\n{self.text}")
            self.read()
        return int(self.child.exitstatus if self.child.exitstatus is not None else -(self.child.signalstatus or 0))

    def close(self) -> None:
        """Leave no process."""
        self.child.close(force=True)


@pytest.fixture
def terminal(engine: Any) -> Iterator[Callable[..., Terminal]]:
    """Opens terminals on the fake engine and closes them."""
    opened: list[Terminal] = []

    def open_one(**options: Any) -> Terminal:
        opened.append(Terminal(engine.socket_path, **options))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


def test_it_opens_goes_around_and_leaves(terminal: Callable[..., Terminal]) -> None:
    t = terminal(size=(80, 24))
    t.shows("airboss", "chat", "production", "? help")
    t.screen.reset()  # as if something else had cleared the terminal
    t.send("\x0c")
    t.shows("airboss", "chat", "production", "? help")
    t.send("2")
    t.shows("ro-2", "ro-1")
    t.send("\r")
    t.shows("step baking", "INCONCLUSIVE", "weight 50 %")
    t.send("?")
    t.shows("type to search")
    t.send("\x1b")
    t.until(lambda: "type to search" not in t.text)
    t.send("\x1b")
    t.shows("ro-1")
    t.send("q")
    assert t.exit_code() == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGHUP, 129), (signal.SIGTERM, 143)])
def test_signals_end_it_cleanly(terminal: Callable[..., Terminal], number: signal.Signals, code: int) -> None:
    t = terminal()
    t.shows("production")
    t.child.kill(number)
    assert t.exit_code() == code


def test_a_terminal_lost_without_a_signal_ends_it_within_three_seconds(
    terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    told = tmp_path / "code"
    t = terminal(shell=f'trap "" HUP; "$@"; echo $? > {told}')
    t.shows("production")
    os.close(t.child.child_fd)
    t.child.child_fd = os.open(os.devnull, os.O_RDWR)
    begun = time.monotonic()
    while not (told.exists() and told.read_text().strip()):
        assert time.monotonic() - begun < 5, "the console outlived its terminal"
        time.sleep(0.05)
    assert told.read_text().strip() == "129"
    assert time.monotonic() - begun < 3.5


@pytest.mark.parametrize("typed", ["by", "\x1b[200~by\x1b[201~", "b\ry"])
def test_what_comes_in_one_read_never_confirms(terminal: Callable[..., Terminal], engine: Any, typed: str) -> None:
    t = terminal()
    t.shows("production")
    t.send(typed)
    t.read(1.0)
    assert engine.done == []
    assert engine.world.rollouts[0].state == "step_baking"


def test_b_then_y_by_hand_does(terminal: Callable[..., Terminal], engine: Any) -> None:
    t = terminal()
    t.shows("production")
    t.send("b")
    t.shows("same as", "Roll back")
    t.read(0.7)
    t.send("y")
    t.until(lambda: engine.world.rollouts[0].state == "rolling_back")


def test_an_arrow_split_by_a_slow_line_is_an_arrow(terminal: Callable[..., Terminal]) -> None:
    t = terminal()
    t.shows("production")
    t.send("2")
    t.shows("ro-1")
    t.send("\x1b")
    time.sleep(0.15)
    t.send("[B")
    t.read(0.6)
    cursor = next(line for line in t.text.splitlines() if line.startswith("▌"))
    assert "ro-1" in cursor


def test_no_bytes_when_nothing_changes_and_few_when_little_does(terminal: Callable[..., Terminal], engine: Any) -> None:
    t = terminal(size=(160, 48))
    t.shows("production")
    t.read(1.0)
    assert t.read(2.5) == 0
    row = engine.world.fleet[0]
    sizes = []
    for rps in (41.7, 42.8, 43.9):
        engine.change(fleet=(row.model_copy(update={"rps": rps}), *engine.world.fleet[1:]))
        sizes.append(t.read(1.3))
    # The first change after a layout repaints a widget whole; from then on only the cells that differ are sent.
    assert all(0 < size < 600 for size in sizes[1:]), sizes


def test_fifty_rows_of_live_numbers_stay_within_two_kilobytes_a_second(
    terminal: Callable[..., Terminal], engine: Any
) -> None:
    row = engine.world.fleet[0].model_copy(update={"rollout_id": None, "phase": "", "alerts": 0})

    def fleet(tick: int) -> tuple[Any, ...]:
        return tuple(
            row.model_copy(update={"service": f"svc-{i:02d}", "rps": 40 + (i * 7 + tick * 3) % 50}) for i in range(50)
        )

    engine.change(fleet=fleet(0))
    t = terminal(size=(160, 30))
    t.shows("svc-05")
    t.read(1.5)
    engine.change(fleet=fleet(1))
    t.read(1.2)
    before = time.monotonic()
    taken = 0
    for tick in range(2, 6):
        engine.change(fleet=fleet(tick))
        taken += t.read(1.0)
    assert 0 < taken / (time.monotonic() - before) < 2048


@pytest.mark.parametrize(
    "env", [{"TERM": "linux"}, {"TERM": "screen"}, {"TERM": "xterm"}, {"NO_COLOR": "1"}, {"COLORFGBG": "0;15"}]
)
def test_other_terminals_carry_it(terminal: Callable[..., Terminal], env: dict[str, str]) -> None:
    t = terminal(env=env)
    t.shows("chat", "production", "▲ 1 alert")
    t.send("q")
    assert t.exit_code() == 0


@pytest.mark.parametrize("env", [{"TERM": "dumb"}, {}])
def test_without_a_terminal_it_refuses_and_names_the_script_way(env: dict[str, str], engine: Any) -> None:
    code = CHILD.replace("sys.exit(", "from state.words import UsageError\ntry:\n    ").rstrip().removesuffix(")") + (
        "\nexcept UsageError as e:\n    print(e.message, e.hint, 'textual' in sys.modules)\n    sys.exit(int(e.exit))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(engine.socket_path)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        timeout=30,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "--script" in done.stdout
    assert done.stdout.strip().endswith("False")


def test_a_view_that_fails_says_so_and_leaves_the_others(engine: Any, tmp_path: Path) -> None:
    breaking = CHILD.replace(
        "sys.exit(",
        (
            "import console.tui.screens.lists as lists\n"
            "def broken(*a):\n    raise ValueError('it broke: token=hunter2hunter2')\n"
            "lists.item_page = broken\nsys.exit("
        ),
    )
    t = Terminal(engine.socket_path, size=(160, 40), env={"XDG_STATE_HOME": str(tmp_path)}, code=breaking)
    try:
        t.shows("production")
        t.send("4")
        t.shows("✗ this view failed (ValueError: it broke: token=***)", "the others work")
        t.send("2")
        t.shows("ro-2")
        t.send("q")
        assert t.exit_code() == 0
    finally:
        t.close()


def test_a_crash_says_one_line_keeps_a_private_report_and_shows_no_locals(engine: Any, tmp_path: Path) -> None:
    breaking = CHILD.replace(
        "sys.exit(",
        (
            "def broken(*a):\n    api_token = 'hunter2hunter2'\n    raise ValueError('it broke: password=hunter2hunter2')\n"
            "import console.tui.console_app as app\napp.ListScreen.narrow = app.ListScreen.status = broken\nsys.exit("
        ),
    )
    child = pexpect.spawn(
        sys.executable,
        ["-c", breaking, str(engine.socket_path)],
        dimensions=(40, 120),
        cwd=str(ROOT),
        timeout=15,
        env={**os.environ, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(tmp_path)},
    )
    child.expect("the console failed")
    rest = child.read()
    child.close()
    assert child.exitstatus == 1
    assert b"hunter2" not in rest
    report = next((tmp_path / "airboss").glob("console-*.log"))
    assert report.stat().st_mode & 0o777 == 0o600
    assert "it broke" in report.read_text()
    assert "hunter2" not in report.read_text()
