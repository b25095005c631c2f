"""Two releases, metric by metric: the difference with a bootstrap interval, or that there is too little to say. Pure.

Counts are drawn by blocks of time, not by request: requests of one moment share their load and their replica, so they are not
independent. Blocks in which both releases served are drawn together, which takes the load of the hour out of the difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import StrEnum

import numpy as np
import numpy.typing as npt

RESAMPLES = 2_000
CONFIDENCE = 0.95
MIN_BLOCKS = 8
"""Fewer blocks (or segments) have too few different draws for an interval."""

Numbers = npt.NDArray[np.float64]


class Says(StrEnum):
    """What a metric's interval comes to; lower is better in every metric but those that say otherwise."""

    A = "A is better"
    B = "B is better"
    SAME = "no difference seen"
    FEW = "too few"


@dataclass(frozen=True, slots=True)
class Compared:
    """One metric of A and B. `difference` is B less A; `low` and `high` bound it with `confidence`; None is not known.

    `n_a`, `n_b` are the samples in `unit`, `needed` how many each must have; `note` says what a reader must know besides.
    """

    metric: str
    unit: str
    a: float | None
    b: float | None
    difference: float | None
    low: float | None
    high: float | None
    confidence: float
    n_a: int
    n_b: int
    samples: str
    needed: int
    says: Says
    source: str
    note: str = ""

    @property
    def change_pct(self) -> float | None:
        """The difference in percent of A; None where A is 0 or not known."""
        return 100 * self.difference / self.a if self.difference is not None and self.a else None


@dataclass(frozen=True, slots=True)
class Block:
    """What was counted of one release in one block of time; `latency` has the requests per bucket of its bounds."""

    requests: int = 0
    errors: int = 0
    checked: int = 0
    failed: int = 0
    busy_s: float = 0.0
    tokens: int = 0
    latency_s: float = 0.0
    latency: tuple[int, ...] = ()

    def __add__(self, other: Block) -> Block:
        longest = max(len(self.latency), len(other.latency))
        mine, theirs = (one + (0,) * (longest - len(one)) for one in (self.latency, other.latency))
        sums = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self) if f.name != "latency"}
        return Block(**sums, latency=tuple(a + b for a, b in zip(mine, theirs, strict=True)))


@dataclass(frozen=True, slots=True)
class Metric:
    """A ratio of sums over blocks: `top` over `bottom`, times `scale`."""

    name: str
    unit: str
    top: str
    bottom: str
    samples: str
    needed: int
    scale: float = 1.0
    note: str = ""


def ratio(
    metric: Metric, a: Sequence[Block], b: Sequence[Block], *, is_paired: bool, resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Compared:  # fmt: skip
    """`metric` of two releases by their blocks (those of one index are of one time when `is_paired`)."""
    tops = [np.array([getattr(block, metric.top) for block in arm], float) for arm in (a, b)]
    bottoms = [np.array([getattr(block, metric.bottom) for block in arm], float) for arm in (a, b)]
    known = [_over(top.sum(), bottom.sum(), metric.scale) for top, bottom in zip(tops, bottoms, strict=True)]
    n_a, n_b = (sum(int(getattr(block, metric.samples)) for block in arm) for arm in (a, b))

    def drawn(weights: Sequence[Numbers]) -> Numbers:
        with np.errstate(divide="ignore", invalid="ignore"):
            one, other = (w @ top / (w @ bottom) for w, top, bottom in zip(weights, tops, bottoms, strict=True))
        found: Numbers = metric.scale * (other - one)
        return found

    return _compared(
        metric, known[0], known[1], (n_a, n_b), drawn, (len(a), len(b)), is_paired, resamples, confidence
    )  # fmt: skip


def latency_quantile(
    q: float, bounds: Sequence[float], a: Sequence[Block], b: Sequence[Block], *, is_paired: bool, needed: int,
    resamples: int = RESAMPLES, confidence: float = CONFIDENCE,
) -> Compared:  # fmt: skip
    """The q-quantile of latency in milliseconds, linear inside the buckets that end at `bounds` (seconds; the last is +Inf)."""
    metric = Metric(f"latency p{round(100 * q)}", "ms", "latency", "requests", "requests", needed)
    width = len(bounds)
    counts = [np.array([(*block.latency, *(0,) * (width - len(block.latency))) for block in arm], float).reshape(-1, width)
              for arm in (a, b)]  # fmt: skip
    known = [_quantiles(arm.sum(axis=0, keepdims=True), q, bounds)[0] if len(arm) else math.nan for arm in counts]

    def drawn(weights: Sequence[Numbers]) -> Numbers:
        one, other = (_quantiles(w @ arm, q, bounds) for w, arm in zip(weights, counts, strict=True))
        return other - one

    n_a, n_b = (sum(block.requests for block in arm) for arm in (a, b))
    return _compared(
        metric, _finite(known[0]), _finite(known[1]), (n_a, n_b), drawn, (len(a), len(b)), is_paired, resamples, confidence
    )  # fmt: skip


def segments(
    metric: str, unit: str, a: Sequence[float], b: Sequence[float], *, samples: str, needed: int, higher_is_better: bool = False,
    resamples: int = RESAMPLES, confidence: float = CONFIDENCE, note: str = "",
) -> Compared:  # fmt: skip
    """The mean of values that stand in pairs (one piece of the same held-out text each). Raises ValueError for no pairs."""
    if len(a) != len(b):
        raise ValueError(f"{metric}: {len(a)} and {len(b)} values are no pairs")
    one, other = np.array(a, float), np.array(b, float)
    spec = Metric(metric, unit, "", "", samples, needed, note=note)

    def drawn(weights: Sequence[Numbers]) -> Numbers:
        found: Numbers = weights[0] @ (other - one) / max(len(one), 1)
        return found

    found = _compared(
        spec, _finite(one.mean()) if len(one) else None, _finite(other.mean()) if len(other) else None, (len(one), len(other)),
        drawn, (len(one), len(other)), True, resamples, confidence, higher_is_better=higher_is_better, source="evaluation",
    )  # fmt: skip
    return found


def shares(
    metric: Metric, a: tuple[int, int], b: tuple[int, int], resamples: int = RESAMPLES, confidence: float = CONFIDENCE
) -> Compared:
    """Shares of single yes-or-no words, each (bad, all): drawing such words again is drawing from a binomial."""
    known = [_over(bad, n, metric.scale) for bad, n in (a, b)]
    low = high = None
    if min(a[1], b[1]) >= metric.needed and known[0] is not None and known[1] is not None:
        rng = np.random.default_rng(0)
        one, other = (rng.binomial(n, bad / n, size=resamples) / n for bad, n in (a, b))
        tail = (1 - confidence) / 2
        low, high = (float(value) for value in np.quantile(metric.scale * (other - one), [tail, 1 - tail]))
    difference = None if known[0] is None or known[1] is None else known[1] - known[0]
    return Compared(
        metric.name, metric.unit, known[0], known[1], difference, low, high, confidence, a[1], b[1], metric.samples,
        metric.needed, verdict(low, high), "feedback", metric.note,
    )  # fmt: skip


def verdict(low: float | None, high: float | None, higher_is_better: bool = False) -> Says:
    """What an interval of B less A says. One that holds 0 says nothing."""
    if low is None or high is None:
        return Says.FEW
    if low <= 0 <= high:
        return Says.SAME
    return Says.B if (low > 0) == higher_is_better else Says.A


def _compared(
    metric: Metric, a: float | None, b: float | None, counts: tuple[int, int], drawn: object, blocks: tuple[int, int],
    is_paired: bool, resamples: int, confidence: float, *, higher_is_better: bool = False, source: str = "live",
) -> Compared:  # fmt: skip
    low = high = None
    if min(counts) >= metric.needed and min(blocks) >= MIN_BLOCKS and a is not None and b is not None:
        rng = np.random.default_rng(0)
        weights = [rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(float) for n in blocks]
        found = drawn([weights[0], weights[0] if is_paired else weights[1]])  # type: ignore[operator]
        found = found[np.isfinite(found)]
        tail = (1 - confidence) / 2
        if len(found) >= resamples * 0.99:
            low, high = (float(value) for value in np.quantile(found, [tail, 1 - tail]))
    return Compared(
        metric.name, metric.unit, a, b, None if a is None or b is None else b - a, low, high, confidence, *counts,
        metric.samples, metric.needed, verdict(low, high, higher_is_better), source, metric.note,
    )  # fmt: skip


def _quantiles(counts: Numbers, q: float, bounds: Sequence[float]) -> Numbers:
    """Of histograms [draws, buckets], milliseconds [draws]; NaN where nothing was counted (Prometheus' rule for +Inf)."""
    total = counts.cumsum(axis=1)
    rank = q * total[:, -1:]
    at = np.minimum((total < rank).sum(axis=1), len(bounds) - 1)
    rows = np.arange(len(counts))
    below = np.where(at > 0, total[rows, np.maximum(at - 1, 0)], 0.0)
    ends = np.array(bounds)
    start = np.where(at > 0, ends[np.maximum(at - 1, 0)], 0.0)
    inside = counts[rows, at]
    with np.errstate(divide="ignore", invalid="ignore"):
        part = np.where(np.isinf(ends[at]), 0.0, (ends[at] - start) * (rank[:, 0] - below) / inside)
    found: Numbers = np.where(total[:, -1] > 0, 1000 * (start + part), np.nan)
    return found


def _over(top: float, bottom: float, scale: float) -> float | None:
    return _finite(scale * top / bottom) if bottom else None


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
