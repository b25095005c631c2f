"""The console in a pty of its own, and what comes out of it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from pathlib import Path

import psutil

from state.words import OperationFailed

CHILD = """
import sys
from console.client import EngineClient
from console.tui.app import run_console
sys.exit(run_console(lambda: EngineClient.at_socket(sys.argv[1])))
"""


class Terminal:
    """A console at 160×48 on the engine behind `socket`."""

    def __init__(self, socket: Path, size: tuple[int, int] = (160, 48)) -> None:
        self.began = time.monotonic()
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            columns, lines = size
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
            env = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "LINES")}
            house = os.pathsep.join(sys.path)
            os.execve(
                sys.executable,
                [sys.executable, "-c", CHILD, str(socket)],
                {**env, "TERM": "xterm-256color", "PYTHONPATH": house},
            )
        self.text = b""

    def read(self, for_s: float) -> int:
        """Take what is written within `for_s` seconds; how many bytes."""
        count, deadline = 0, time.monotonic() + for_s
        while (left := deadline - time.monotonic()) > 0:
            if not select.select([self._fd], [], [], left)[0]:
                break
            try:
                data = os.read(self._fd, 1 << 16)
            except OSError:
                break
            count += len(data)
            self.text = (self.text + data)[-(1 << 20) :]
        return count

    def read_all(self, for_s: float) -> int:
        """Take what is written for all of `for_s` seconds, pauses or not; how many bytes."""
        count, deadline = 0, time.monotonic() + for_s
        while (left := deadline - time.monotonic()) > 0:
            count += self.read(left)
        return count

    def until(self, words: bytes, within_s: float = 60.0) -> float:
        """Seconds from the start until `words` were written. Raises OperationFailed."""
        while words not in self.text:
            if time.monotonic() - self.began > within_s:
                raise OperationFailed(
                    f"the console did not show {words.decode()} within {within_s:.0f} s", hint="run `airboss` by hand"
                )
            self.read(0.05)
        return time.monotonic() - self.began

    def quiet(self, for_s: float = 0.4, within_s: float = 20.0) -> None:
        """Wait until nothing was written for a while."""
        deadline = time.monotonic() + within_s
        while self.read(for_s) and time.monotonic() < deadline:
            pass

    def answer_s(self, key: bytes, within_s: float = 5.0) -> float:
        """Seconds from a key to the first byte that follows it."""
        begun = time.monotonic()
        os.write(self._fd, key)
        if not select.select([self._fd], [], [], within_s)[0]:
            raise OperationFailed(
                f"the console did not answer the key {key!r} within {within_s:.0f} s", code="no_paint"
            )
        return time.monotonic() - begun

    def rss_mb(self) -> float:
        """Resident memory, MB of 10^6 bytes."""
        return float(psutil.Process(self.pid).memory_info().rss) / 1e6

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.close(self._fd)
        os.waitpid(self.pid, 0)
