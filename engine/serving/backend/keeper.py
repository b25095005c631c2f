"""Between the front and the foreign server: nothing the server started outlives either of them. Standard library only.

`python -I -S keeper.py GRACE_S COMMAND...`, its stdin a pipe that the front holds open. The command
runs in a session of its own, and dies with the keeper (PR_SET_PDEATHSIG). SIGTERM is passed on, SIGKILL follows after
the grace; when the pipe ends, the front is gone, and everything is killed at once. The keeper is a subreaper: a worker
whose parent died (vLLM starts one a GPU) becomes its child, and is ended too. It leaves as the command left.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
REAP_S = 5.0
"""How long killed processes may take to be gone: one in the kernel for a GPU's sake may need a moment."""


def main(argv: list[str]) -> int:
    """Keep the command until it, or the front, ends. Returns its exit code; leaves by its signal if it was killed."""
    grace_s, command = float(argv[1]), argv[2:]
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    keeper = os.getpid()
    try:
        pid = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=lambda: _die_with(keeper)
        ).pid
    except OSError as error:
        sys.stderr.write(f"{command[0]} cannot be started: {error.strerror or error}\n")
        return 127
    status = _keep(pid, grace_s, wake_read)
    status = _end_all(pid, status)
    if status is None or not os.WIFSIGNALED(status):
        return os.waitstatus_to_exitcode(status) if status is not None else 1
    fatal = os.WTERMSIG(status)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if fatal != signal.SIGKILL:
        signal.signal(fatal, signal.SIG_DFL)
    os.kill(keeper, fatal)
    return 128 + fatal


def _keep(pid: int, grace_s: float, wake: int) -> int | None:
    """Until the command ended (its wait status), or must be killed (None)."""
    deadline = None
    while True:
        status = _reap(pid)
        if status is not None:
            return status
        left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready, _, _ = select.select([0, wake], [], [], left_s)
        if not ready or (0 in ready and not os.read(0, 1024)):
            return None
        if wake in ready and signal.SIGTERM in os.read(wake, 1024) and deadline is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGTERM)
            deadline = time.monotonic() + grace_s


def _end_all(pid: int, status: int | None) -> int | None:
    """Kill whatever of the tree is left, orphans included; returns the command's wait status."""
    deadline = time.monotonic() + REAP_S
    while time.monotonic() < deadline:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        children = _children()
        for child in children:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(child, signal.SIGKILL)
        found = _reap(pid)
        status = found if found is not None else status
        if not _children():
            break
        time.sleep(0.01)
    return status


def _reap(pid: int) -> int | None:
    """Collect every child that has ended; the wait status of `pid` if it is among them."""
    status = None
    with contextlib.suppress(ChildProcessError):
        while True:
            ended, found = os.waitpid(-1, os.WNOHANG)
            if ended == 0:
                return status
            if ended == pid:
                status = found
    return status


def _children() -> list[int]:
    me = os.getpid()
    try:
        return [int(word) for word in Path(f"/proc/{me}/task/{me}/children").read_text().split()]
    except OSError:
        return []


def _die_with(parent: int) -> None:
    """In the command, before its program: SIGKILL when the keeper dies, whichever way."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
