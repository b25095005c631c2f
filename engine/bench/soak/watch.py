"""Watching a process over time: does its memory stay flat, does it keep its descriptors?"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

_FIFTHS = 5


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at a process."""

    at_s: float
    rss_bytes: int
    descriptors: int


class Watch:
    """Samples of one process, taken every `every_s` while `run` is awaited."""

    def __init__(self, pid: int, every_s: float) -> None:
        self._process = psutil.Process(pid)
        self._every_s = every_s
        self.samples: list[Sample] = []

    def look(self) -> Sample:
        """One sample, now."""
        with self._process.oneshot():
            return Sample(time.monotonic(), self._process.memory_info().rss, self._process.num_fds())

    async def run(self) -> None:
        """Sample until cancelled."""
        while True:
            self.samples.append(self.look())
            await asyncio.sleep(self._every_s)

    def growth_pct(self) -> float:
        """How much more memory there was at the end than after the first fifth, in percent."""
        return growth_pct([sample.rss_bytes for sample in self.samples])

    def growth_mb_per_h(self) -> float:
        """The slope of a straight line through the memory of the last four fifths."""
        kept = self.samples[len(self.samples) // _FIFTHS :]
        if len(kept) < 2:
            return 0.0
        line = statistics.linear_regression([s.at_s for s in kept], [float(s.rss_bytes) for s in kept])
        return line.slope * 3600 / 1e6


def growth_pct(values: Sequence[float]) -> float:
    """The last fifth's median over the second fifth's, less one, in percent. The first is warming up."""
    fifth = len(values) // _FIFTHS
    if fifth == 0:
        return 0.0
    early, late = statistics.median(values[fifth : 2 * fifth]), statistics.median(values[-fifth:])
    return (late / early - 1) * 100
