"""StageExecutor (adapters.executing) on this host: the shell, in the stage's own process group."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from adapters.executing import CommandFailed, Work

OUT_OF_MEMORY = "killed by signal 9 (out of memory, if nobody sent it)"


class LocalCommands:
    """Commands with this program's environment and its Python first on the PATH."""

    def __init__(self, say: Callable[..., None]) -> None:
        """`say` puts one line of facts into the stage's log."""
        self._say = say

    def run(self, work: Work, clean: Callable[[], None]) -> None:
        """One after the other. Raises CommandFailed."""
        clean()
        cwd = work.root / work.cwd
        cwd.mkdir(parents=True, exist_ok=True)
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        env = {**os.environ, "PATH": path, **work.env}
        for command in work.commands:
            self._say(stage=work.stage, message="command", command=command, cwd=str(cwd))
            done = subprocess.run(
                ["/bin/sh", "-c", command], cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=sys.stdout.fileno(),
                stderr=subprocess.STDOUT, check=False,
            )  # fmt: skip
            # The shell says 128 + the signal of what it ran last, and its own death as a negative number.
            if done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL):
                raise CommandFailed(f"the command was {OUT_OF_MEMORY}: {command}", hint="its log says more")
            if done.returncode < 0:
                raise CommandFailed(
                    f"the command was killed by signal {-done.returncode}: {command}", hint="its log says more"
                )
            if done.returncode:
                raise CommandFailed(
                    f"the command ended with {done.returncode}: {command}", hint="its log has what it said last"
                )
