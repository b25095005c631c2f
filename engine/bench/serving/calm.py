"""Waiting for a quiet machine, and saying how quiet it was: a number measured beside other work says little alone."""

from __future__ import annotations

import statistics
import time

import psutil

QUIET_CORES = 0.3
"""Less than this much of one core in use by others counts as quiet."""
_LOOK_S = 0.4


class Calm:
    """Looks at the machine before each measurement, while the sides of a benchmark all sit idle."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._seen: list[float] = []

    def wait(self) -> None:
        """Return when the machine is quiet, or when this run's patience is used up. Remembers what it saw."""
        while True:
            began = time.monotonic()
            busy = _busy_cores()
            if busy < QUIET_CORES or self._patience_s <= 0:
                self._seen.append(busy)
                return
            self._patience_s -= time.monotonic() - began

    @property
    def is_quiet(self) -> bool:
        """Whether it was, at the last look."""
        return bool(self._seen) and self._seen[-1] < QUIET_CORES

    def line(self) -> str:
        """How much others took, in one sentence."""
        if not self._seen:
            return "nothing was measured"
        middle, most = statistics.median(self._seen), max(self._seen)
        said = f"before the rounds other programs used {middle:.1f} cores (median; at most {most:.1f})"
        return said if most < QUIET_CORES else f"{said}: read ratios, not absolutes, and run again on a quiet machine"


def _busy_cores() -> float:
    """Cores in use over a moment."""
    share = psutil.cpu_percent(interval=_LOOK_S)
    return float(share) / 100 * (psutil.cpu_count() or 1)
