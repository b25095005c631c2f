"""Time limits on whatever runs, and signals kept away from what must come to its end. On the main thread only."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from console.diagnostics import Stopped
from state.words import ExitCode

_SHIELDED = {signal.SIGINT: ExitCode.INT, signal.SIGTERM: ExitCode.TERM, signal.SIGHUP: ExitCode.HUP}


class OutOfTime(BaseException):
    """The time given to a block is over. No Exception: what it cuts short must not take it for a failure of its own."""


@contextmanager
def time_limit(limit_s: float | None) -> Iterator[None]:
    """Raise OutOfTime in the block once `limit_s` seconds are over; None is no limit. Limits do not nest."""
    if limit_s is None:
        yield
        return

    def over(_number: int, _frame: FrameType | None) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, max(limit_s, 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def shielded(say: Callable[[str], None], what: str) -> Iterator[None]:
    """Hold INT, TERM and HUP off the block: the first is only told, a second raises Stopped.

    A runner of jobs sends INT, then TERM a few seconds later, before it kills.
    """
    seen = 0

    def hold(number: int, _frame: FrameType | None) -> None:
        nonlocal seen
        seen += 1
        if seen > 1:
            raise Stopped(_SHIELDED[signal.Signals(number)])
        say(f"{signal.Signals(number).name}: {what} is let finish; once more ends it")

    before = {
        number: signal.signal(number, hold) for number in _SHIELDED if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
