"""The users as a process of their own, from the moment they are being answered until they are sent home."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from types import TracebackType

from engine.bench.rollback.users import READY, Seen
from state.words import OperationFailed

STREAM_EVERY = 20
LEAVE_S = 60.0


class Crowd:
    """Users of a port. Use as a context manager; `leave` says what they saw."""

    def __init__(self, port: int, *, stream_every: int = STREAM_EVERY) -> None:
        words = [sys.executable, "-P", "-m", "engine.bench.rollback.users", str(port), str(stream_every)]
        self._child = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Crowd:
        assert self._child.stdout is not None
        if self._child.stdout.readline().strip() != READY:
            raise OperationFailed(f"the users left: {self._child.communicate()[1].strip()[-300:]}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._child.poll() is None:
            self._child.kill()
            self._child.wait()

    def leave(self) -> Seen:
        """Have them ask no more; what they saw, once all are answered. Raises OperationFailed."""
        self._child.send_signal(signal.SIGINT)
        out, err = self._child.communicate(timeout=LEAVE_S)
        if self._child.returncode:
            raise OperationFailed(f"the users failed: {err.strip()[-300:]}")
        return Seen(**json.loads(out))
