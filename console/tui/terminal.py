"""The terminal: whether it can carry the console, what textual must know of it, and noticing its loss."""

from __future__ import annotations

import os
import select
import sys
import threading
from collections.abc import Callable, Mapping, MutableMapping

from state.words import ExitCode, UsageError

_SCRIPT = "use `airboss status`, `airboss rollout list`, or lines in a file: `airboss --script FILE`"
DUMB = frozenset({"", "dumb", "unknown", "emacs"})
HANGUP_LOOK_S = 1.0
HANGUP_GRACE_S = 1.5
_SETTINGS = {
    "TEXTUAL_FPS": "30",
    "TEXTUAL_ANIMATIONS": "none",
    "TEXTUAL_SMOOTH_SCROLL": "0",
    # Looking for plugins of pydantic reads the metadata of everything that is installed; the console has none.
    "PYDANTIC_DISABLE_PLUGINS": "__all__",
}
OURS_ALONE = ("PYDANTIC_DISABLE_PLUGINS",)
"""Not for what is started from the console."""
ESCDELAY_MS = 300


def prepare(environ: MutableMapping[str, str]) -> None:
    """Set what textual and pydantic read: few frames, no animation, time for an ESC sequence split by a slow line."""
    for name, value in _SETTINGS.items():
        environ.setdefault(name, value)
    asked = environ.get("ESCDELAY", "")
    environ["ESCDELAY"] = str(max(ESCDELAY_MS, int(asked) if asked.isdigit() else 0))


def require(environ: Mapping[str, str]) -> None:
    """Raise UsageError where the console cannot be shown: no terminal, or one that cannot move its cursor."""
    if not (sys.stdin.isatty() and sys.stdout.isatty() and sys.stderr.isatty()):
        raise UsageError(
            "the console needs a terminal, and standard input, output or error is none",
            hint=_SCRIPT,
            code="no_terminal",
        )
    if environ.get("TERM", "") in DUMB:
        raise UsageError(
            f"the console cannot be drawn on TERM={environ.get('TERM', '')!r}",
            hint=f"set TERM, or {_SCRIPT}",
            code="no_terminal",
        )


class Watchdog:
    """Notices that the terminal is gone, signal or not, and ends the process within three seconds.

    A thread of its own, for a stalled writer can hold the event loop. The console owns nothing, so when a clean exit does
    not come in time, a hard one loses nothing.
    """

    def __init__(self, on_loss: Callable[[], None], fd: int = 0) -> None:
        self._on_loss = on_loss
        self._fd = fd
        self._stop = threading.Event()
        self._controls = _controls(fd)

    def start(self) -> None:
        """Begin to look."""
        threading.Thread(target=self._watch, name="airboss-tty", daemon=True).start()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()

    def _watch(self) -> None:
        while not self._stop.wait(HANGUP_LOOK_S):
            if self._is_lost():
                self._on_loss()
                if not self._stop.wait(HANGUP_GRACE_S):
                    os._exit(int(ExitCode.HUP))
                return

    def _is_lost(self) -> bool:
        poll = select.poll()
        poll.register(self._fd, 0)
        if any(event & (select.POLLHUP | select.POLLERR | select.POLLNVAL) for _, event in poll.poll(0)):
            return True
        return self._controls and not _controls(self._fd)


def _controls(fd: int) -> bool:
    """Whether `fd` is this process's controlling terminal, and is still there."""
    try:
        os.tcgetpgrp(fd)
    except OSError:
        return False
    return True
