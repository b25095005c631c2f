"""The other judges: the seed's rule, a z-test watched every minute, Bonferroni's, a planned one, and Mann-Whitney."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
from scipy import stats

from engine.bench.judge.ours import Minutes, first_minute
from engine.bench.judge.worlds import BINS_A_MINUTE, World
from engine.rollouts.planned import z_critical
from engine.rollouts.statistics import Array, Split

ALPHA = 0.05
PLANNED_MINUTE = 30
BONFERRONI_LOOKS = 6
EVERY_MIN = 5
SEEN_MIN = 30
"""How many of the newest minutes Mann-Whitney compares."""
FROM_MIN = 10


def over_one_percent(minutes: Split) -> Minutes:
    """Seed 5.4: roll back when the error rate of the last five minutes is above 1 %."""
    bad, requests = (_last_five(field) for field in (minutes.canary_bad, minutes.canary_requests))
    return first_minute((bad / np.maximum(requests, 1) > 0.01) & _from(minutes, EVERY_MIN))


def peeked_z(minutes: Split) -> Minutes:
    """Seed 3.10's z-test at 5 %, looked at every minute."""
    return first_minute(_z(minutes) > z_critical(ALPHA))


def bonferroni_z(minutes: Split) -> Minutes:
    """The z-test every five minutes, corrected for the six looks of half an hour, and looked at for longer."""
    flags = _z(minutes) > z_critical(ALPHA / BONFERRONI_LOOKS)
    return first_minute(flags & (_minute(minutes) % EVERY_MIN == 0))


def planned_z(minutes: Split) -> Minutes:
    """The z-test as it is meant: once, at half an hour."""
    return first_minute((_z(minutes) > z_critical(ALPHA)) & (_minute(minutes) == PLANNED_MINUTE))


def mann_whitney(minutes: Split) -> Minutes:
    """Mann-Whitney at 5 % every five minutes, on both tracks' error rates in each of the newest thirty minutes."""
    canary = minutes.canary_bad / np.maximum(minutes.canary_requests, 1)
    stable = minutes.stable_bad / np.maximum(minutes.stable_requests, 1)
    flags = np.zeros(canary.shape, dtype=bool)
    for look in range(FROM_MIN, canary.shape[1] + 1, EVERY_MIN):
        seen = slice(max(0, look - SEEN_MIN), look)
        found = stats.mannwhitneyu(canary[:, seen], stable[:, seen], alternative="greater", axis=1, method="asymptotic")
        flags[:, look - 1] = found.pvalue < ALPHA
    return first_minute(flags)


RIVALS: Mapping[str, Callable[[Split], Minutes]] = {
    'the "> 1 %" rule': over_one_percent,
    "peeked z": peeked_z,
    "Bonferroni z": bonferroni_z,
    "Mann-Whitney": mann_whitney,
    "planned z": planned_z,
}


def hear_rivals(world: World, runs: int, seed: int) -> dict[str, Minutes]:
    """For each rival and run the minute in which it rolls back, 0 where it does not: of the same runs as ours."""
    parts: dict[str, list[Minutes]] = {name: [] for name in RIVALS}
    for split in world.draw(runs, seed):
        fields = (split.canary_bad, split.canary_requests, split.stable_bad, split.stable_requests)
        minutes = Split(*(field.reshape(len(field), -1, BINS_A_MINUTE).sum(axis=-1) for field in fields))
        for name, rule in RIVALS.items():
            parts[name].append(rule(minutes))
    return {name: np.concatenate(found) for name, found in parts.items()}


def _z(minutes: Split) -> Array:
    """The pooled two-proportion z of all minutes so far, as `planned.z_score` has it for one look."""
    canary, n_canary = np.cumsum(minutes.canary_bad, axis=1), np.cumsum(minutes.canary_requests, axis=1)
    stable, n_stable = np.cumsum(minutes.stable_bad, axis=1), np.cumsum(minutes.stable_requests, axis=1)
    pooled = (canary + stable) / (n_canary + n_stable)
    spread = np.sqrt(np.maximum(pooled * (1 - pooled) * (1 / n_canary + 1 / n_stable), 1e-12))
    return np.asarray((canary / n_canary - stable / n_stable) / spread)


def _last_five(counts: Array) -> Array:
    sums = np.cumsum(counts, axis=1)
    sums[:, EVERY_MIN:] -= sums[:, :-EVERY_MIN].copy()
    return sums


def _minute(minutes: Split) -> npt.NDArray[np.intp]:
    return np.arange(1, minutes.canary_bad.shape[1] + 1)


def _from(minutes: Split, first: int) -> npt.NDArray[np.bool_]:
    return np.asarray(_minute(minutes) >= first)
