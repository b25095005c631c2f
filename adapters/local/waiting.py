"""A child started before its work is known: it imports what it will need, and waits to be told its spec.

It holds nothing while it waits, so it may be killed at any time; it leaves by itself when whoever started it is gone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

WAIT = "--wait"
"""A module that knows how to wait is started with this."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A child that waits, for its parent."""

    popen: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        """Its process, and its process group."""
        return self.popen.pid

    def hand_over(self, spec_path: Path, log: Path) -> bool:
        """Tell it its spec and where it writes; False when it is gone."""
        pipe = self.popen.stdin
        if pipe is None or self.popen.poll() is not None:
            return False
        try:
            pipe.write(json.dumps({"spec": str(spec_path), "log": str(log)}).encode() + b"\n")
            pipe.close()
        except OSError:
            return False
        return True

    def dismiss(self) -> None:
        """It is not needed."""
        if self.popen.poll() is None:
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()
        if self.popen.stdin is not None:
            self.popen.stdin.close()


def told() -> Path | None:
    """For the child: its spec, once it is told; None when nobody will. Its output goes to the log from here on."""
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):
        return None
    work = json.loads(line)
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(work["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for fd, place in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(fd, place)
    os.close(nothing)
    os.close(log)
    return Path(work["spec"])
