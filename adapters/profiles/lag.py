"""A histogram that is behind its counter: Envoy merges histograms every five seconds (`stats_flush_interval`), counters at once. Pure.

So a slow request may be seen in an interval after its own, where there was no request at all: counts that cannot be. It is put where it
has room: the next interval, or, after the last, the newest before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from adapters.ports import ArmCounts, Interval


def settled(intervals: Sequence[Interval]) -> tuple[Interval, ...]:
    """The intervals with each arm's slow ones within its requests; their sum is kept where all requests together have room for it."""
    stable, canary = _fit([one.stable for one in intervals]), _fit([one.canary for one in intervals])
    return tuple(replace(one, stable=s, canary=c) for one, s, c in zip(intervals, stable, canary, strict=True))


def _fit(arm: Sequence[ArmCounts]) -> list[ArmCounts]:
    slow, waiting = [], 0
    for counts in arm:
        taken = min(counts.slow + waiting, counts.requests)
        waiting += counts.slow - taken
        slow.append(taken)
    for at in range(len(arm) - 1, -1, -1):
        more = min(waiting, arm[at].requests - slow[at])
        slow[at] += more
        waiting -= more
    return [replace(counts, slow=taken) for counts, taken in zip(arm, slow, strict=True)]
