"""Whether the store takes writes: since when one waits, or why the last one failed. What a banner says of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from state.words import AirbossError, Conflict

MEANWHILE = "What serves goes on, and `airboss rollback SERVICE --emergency` works meanwhile"
LONG_WAIT_S = 3.0
"""So long no write takes on a disk that is well: it waits for somebody."""


@dataclass(slots=True)
class WriteStanding:
    """Kept by the one writer, read by anybody. `waits_for` says what a write that takes long waits for."""

    waits_for: Callable[[], str]
    _began: float | None = None
    _failed: str = ""

    def begins(self) -> None:
        """A write is under way from now on."""
        self._began = time.monotonic()

    def ends(self, trouble: AirbossError | None = None) -> None:
        """It is over: it went through, was refused by its own rules, or the store could not take it."""
        self._began = None
        self._failed = trouble.message if trouble is not None else ""

    @property
    def is_stuck(self) -> bool:
        """A write waits for longer than any takes: nobody knows how much longer."""
        return self._waited_s > LONG_WAIT_S

    def refusal(self) -> Conflict:
        """For who asked for a write that stands behind the one that waits, and was taken out of the queue."""
        hint = f"ask again once that is over. {MEANWHILE}"
        return Conflict(f"nothing was written: {self.trouble or 'the store was busy'}", hint=hint, code="store_locked")

    @property
    def trouble(self) -> str:
        """Why nothing can be written just now, in a sentence; "" while it can."""
        if self.is_stuck:
            return f"a write has waited {self._waited_s:.0f} s for {self.waits_for()}"
        return self._failed

    @property
    def _waited_s(self) -> float:
        began = self._began
        return time.monotonic() - began if began is not None else 0.0
