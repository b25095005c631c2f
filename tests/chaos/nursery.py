"""What sweeps share: engines that die where they are told to, forked from a process that has imported everything, and a policy
that takes few requests."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from chaos_workspace import CONFIG, Workspace
from patience import until

CRASHING = Path(__file__).with_name("crashing_engine.py")
PATIENT = (
    CONFIG.replace("availability = 90.0", "availability = 80.0")
    .replace("replicas = {replicas}", 'replicas = {replicas}\ndeadline = "5m"')
    .replace("latency_share = 90.0", "latency_share = 80.0")
    .replace('prepare_timeout = "300s"', 'prepare_timeout = "3h"')
    .replace("max_minutes = 10", "max_minutes = 240")
    .replace('no_data_after = "90s"', 'no_data_after = "10m"')
)
"""Twenty requests are enough for a step, and no deadline ends what a hundred deaths on a busy machine draw out."""
RPS = 8.0
SLOW_S = 600.0
"""A sweep goes on for hours beside other work: what is slow there is no failure."""


class Forked:
    """An engine of the nursery, with the part of Popen's face that the kill tests use. Its exit code is not known."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._fd = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """None while it lives."""
        return 0 if select.select([self._fd], [], [], 0.0)[0] else None

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it is gone. Raises TimeoutExpired."""
        if not select.select([self._fd], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired([str(CRASHING)], timeout or 0.0)
        return 0

    def kill(self) -> None:
        """SIGKILL, also where it has just gone."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._fd, signal.SIGKILL)


class Nursery:
    """Forks engines; `close` ends the process that does. The engines belong to their workspaces."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(CRASHING), "--nursery"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, ws: Workspace, *, is_up: bool = True, **env: str) -> Forked:
        """An engine for the workspace; with `is_up`, once it answers or is gone."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        # The whole environment: the nursery is older than the workspace, whose sockets lie where a variable says.
        wish = {
            "argv": ["--workspace", str(ws.root)],
            "env": {**os.environ, "CHAOS_POINTS": os.devnull, **env},
            "cwd": str(ws.root),
            "log": str(ws.paths.logs / "engine.log"),
        }
        self._process.stdin.write(json.dumps(wish) + "\n")
        self._process.stdin.flush()
        engine = Forked(int(self._process.stdout.readline()))
        ws.engines.append(engine)  # type: ignore[arg-type]
        if is_up:
            until(
                lambda: engine.poll() is not None or ws.health_pid() == engine.pid,
                "the engine answers or is gone",
                SLOW_S,
            )
        return engine

    def serve(self, ws: Workspace) -> None:
        """The first engine of the workspace, once users are answered."""
        self.start(ws)
        until(lambda: len(ws.gateways()) == 2 and ws.is_serving(), "users are answered", SLOW_S)

    def close(self) -> None:
        """End the process that forks."""
        self._process.kill()
        self._process.communicate()
