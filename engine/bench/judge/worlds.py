"""What the judges of the benchmark are shown: many runs of a canary beside stable, drawn at random."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from engine.rollouts.statistics import Array, Split

BAD_WINDOW_S = 10.0
BIN_S = BAD_WINDOW_S / 3
BINS_A_MINUTE = 18
CHUNK_BINS = 2_000_000
"""How many bins of all runs are held at a time."""


@dataclass(frozen=True, slots=True)
class World:
    """Rates of bad events by equal parts of the run; `share` is the canary's true share of the requests.

    `together` bad events come at once on one track; for `outage` of the run's minutes both tracks fail one in five.
    """

    name: str
    minutes: int
    canary: tuple[float, ...]
    stable: float = 0.004
    share: float = 0.1
    rps: float = 20.0
    together: int = 1
    outage: tuple[int, int] = (0, 0)
    metric: str = "errors"

    def draw(self, runs: int, seed: int) -> Iterator[Split]:
        """Counts of `runs` runs in bins of BIN_S, a few at a time; the same seed draws the same."""
        chance = np.random.default_rng(seed)
        bins = self.minutes * BINS_A_MINUTE
        size = max(1, CHUNK_BINS // bins)
        for first in range(0, runs, size):
            yield self._drawn(chance, min(size, runs - first), bins)

    def _drawn(self, chance: np.random.Generator, runs: int, bins: int) -> Split:
        requests = chance.poisson(self.rps * BIN_S, (runs, bins))
        on_canary = chance.binomial(requests, self.share)
        rates = np.repeat(self.canary, -(-bins // len(self.canary)))[:bins]
        base = np.full(bins, self.stable)
        first, last = (minute * BINS_A_MINUTE for minute in self.outage)
        rates[first:last] = base[first:last] = 0.2 if last else self.stable
        return Split(
            canary_bad=self._bad(chance, on_canary, rates),
            canary_requests=on_canary.astype(float),
            stable_bad=self._bad(chance, requests - on_canary, base),
            stable_requests=(requests - on_canary).astype(float),
        )

    def _bad(
        self, chance: np.random.Generator, requests: np.ndarray[tuple[int, ...], np.dtype[np.int64]], rates: Array
    ) -> Array:
        bad = chance.binomial(requests, rates / self.together) * self.together
        return np.asarray(np.minimum(bad, requests), dtype=float)


NULL_DAY = World("no difference, 24 h", 1440, (0.004,))
NULL_SLOW = World("no difference, 3 % slow on both tracks, 24 h", 1440, (0.03,), stable=0.03, metric="slow")
CLEAR = World("1.5 % beside 0.4 %, 30 min", 30, (0.015,))
DOUBLE = World("0.8 % beside 0.4 %, 30 min", 30, (0.008,))
RAMP = World("ramp 0.4, 0.8, 1.5 % in 30 min (seed 5.4)", 30, (0.004, 0.008, 0.015))
HELD = World("the ramp, its last level held", 90, (0.004, 0.008, *(7 * (0.015,))))
LATE = World("1.5 % from the fourth hour on", 240, (0.004, 0.004, 0.004, 0.015))
BURSTS = World("no difference, bad ones in fives, 4 h", 240, (0.004,), together=5)
OUTAGE = World("both tracks 20 % for 5 min", 60, (0.004,), outage=(20, 25))
SPLIT = World("no difference, 15 % arrive instead of 10 %, 4 h", 240, (0.004,), share=0.15)
