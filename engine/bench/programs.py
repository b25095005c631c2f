"""The programs a benchmark starts, in a directory of their own: each with its log, and none outlives the benchmark."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from state.words import OperationFailed, Unreachable

START_S = 15.0
STOP_S = 5.0


class Programs:
    """Starts programs and sees that all of them end. Use as a context manager."""

    def __init__(self) -> None:
        self.stack = ExitStack()
        """What is undone at the end, the newest first."""

    def __enter__(self) -> Self:
        self.root = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="airboss-bench-")))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stack.close()

    def start(
        self,
        name: str,
        argv: Sequence[str],
        *,
        cores: Collection[int] = (),
        port: int = 0,
        pass_fds: Sequence[int] = (),
        wait_s: float = START_S,
        env: dict[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a program, on `cores` alone if any are named, and wait until `port` takes connections."""
        log = self.log(name)
        with log.open("wb") as file:
            child = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=file, stderr=file, pass_fds=tuple(pass_fds), env=env,
                start_new_session=True, preexec_fn=pinned(cores),
            )  # fmt: skip
        self.stack.callback(stop, child)
        if port:
            _await_port(name, child, port, log, wait_s)
        return child

    def log(self, name: str) -> Path:
        """Where the program `name` writes what it has to say."""
        return self.root / f"{name}.log"


def pinned(cores: Collection[int]) -> Callable[[], None] | None:
    """What a child runs before it becomes its program, to stay on `cores`; None when it may go anywhere."""
    return (lambda: os.sched_setaffinity(0, cores)) if cores else None


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def stop(child: subprocess.Popen[bytes]) -> None:
    """End a program gently, and then not gently."""
    child.terminate()
    try:
        child.wait(STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def last_lines(path: Path, count: int = 3) -> str:
    """The end of a log, in one line."""
    return " / ".join(path.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-count:])


def _await_port(name: str, child: subprocess.Popen[bytes], port: int, log: Path, wait_s: float) -> None:
    end = time.monotonic() + wait_s
    while time.monotonic() < end:
        if child.poll() is not None:
            raise OperationFailed(f"{name} ended with {child.returncode} as it started: {last_lines(log)}")
        try:
            with socket.create_connection(("127.0.0.1", port), 1):
                return
        except OSError:
            time.sleep(0.05)
    raise Unreachable(f"{name} did not listen on port {port} within {wait_s:g} s")
