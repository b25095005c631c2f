"""What the console saw: the frames of the last half hour, thinned, and where one stands among them. Pure."""

from __future__ import annotations

from collections import deque

from console.rows import Rows
from console.tui.scene import Frame
from engine.api.lines import SECTIONS
from engine.api.schemas import Snapshot

KEPT_S = 30 * 60.0
EVERY_S = 5.0
"""Between two kept frames; the newest is always there."""


class Past:
    """Frames, oldest first. `at` is where one stands when the screen is held."""

    def __init__(self) -> None:
        self._frames: deque[Frame] = deque()
        self._at: int | None = None

    def note(self, frame: Frame) -> None:
        """The engine was seen: keep it if the last kept one is old enough, and let go of what is too old."""
        now = frame.snapshot.as_of
        if self._frames and now < self._frames[-1].snapshot.as_of:
            self._frames.clear()  # another engine, or its clock was set back: an order of both would mean nothing
            self._at = None
        if self._frames and now - self._frames[-1].snapshot.as_of < EVERY_S:
            return
        if self._frames:
            _rest(self._frames[-1].snapshot, frame.snapshot)
        self._frames.append(frame)
        while now - self._frames[0].snapshot.as_of > KEPT_S:
            self._frames.popleft()
            if self._at is not None:
                self._at = max(0, self._at - 1)

    def step(self, shown: Frame | None, how: int) -> Frame | None:
        """The kept frame `how` before (negative) or after the one shown; None where there is none."""
        if not self._frames:
            return None
        here = self._at
        if here is None:
            as_of = shown.snapshot.as_of if shown is not None else float("inf")
            times = [frame.snapshot.as_of for frame in self._frames]
            here = sum(at < as_of for at in times) if how < 0 else sum(at <= as_of for at in times) - 1
        there = here + how
        if not 0 <= there < len(self._frames):
            return None
        self._at = there
        return self._frames[there]

    def let_go(self) -> None:
        """The screen shows the present again."""
        self._at = None


def _rest(before: Snapshot, now: Snapshot) -> None:
    """Let what is no longer so take little room until somebody steps back to it."""
    for name in SECTIONS:
        rows = getattr(before, name, ())
        if isinstance(rows, Rows) and rows is not getattr(now, name):
            rows.rest()
