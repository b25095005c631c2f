"""A file whose meaning is used on every request: looked at once a second, read again when it has changed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from engine.gateway.logs import log
from state.words import AirbossError

T = TypeVar("T")
LOOK_EVERY_S = 1.0


class Watched(Generic[T]):
    """What `load(path)` made of the file last. A version that cannot be used leaves the one before in force.

    A change of a file in `also` is a change too.
    """

    def __init__(
        self,
        path: Path,
        load: Callable[[Path], T],
        clock: Callable[[], float] = time.monotonic,
        also: tuple[Path, ...] = (),
    ) -> None:
        """Loads at once. Raises what `load` raises."""
        self.path = path
        self._all = (path, *also)
        self._load = load
        self._clock = clock
        self._looked_at = clock()
        self._mark = [_mark_of(each) for each in self._all]
        self._value = load(path)

    def value(self) -> T:
        """The current value."""
        now = self._clock()
        if now - self._looked_at >= LOOK_EVERY_S:
            self._looked_at = now
            self.look()
        return self._value

    def look(self) -> bool:
        """Read the file again if it is another one now. True when its value was replaced."""
        mark = [_mark_of(each) for each in self._all]
        if mark == self._mark:
            return False
        self._mark = mark
        try:
            self._value = self._load(self.path)
        except (AirbossError, OSError, ValueError) as error:
            log("file_refused", path=str(self.path), error=str(error), in_force="the version before")
            return False
        log("file_reloaded", path=str(self.path))
        return True


def _mark_of(path: Path) -> tuple[int, ...]:
    """Differs when the file was replaced or written to; () when there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return (found.st_ino, found.st_mtime_ns, found.st_size)
