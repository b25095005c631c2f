"""How far live texts lie from the training text: KL (seed 3.4), PSI and KS, with sample sizes and intervals. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from engine.text_shape import WORD_BINS, Shape

RESAMPLES = 400
CONFIDENCE = 0.95
MIN_BLOCKS = 8
SMOOTHING = 0.5
"""Added to each character's count on both sides: one that only one side has would be infinitely far else."""

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Drift:
    """Live texts against the training text. `kl` in nats, live from training; `low` ends of 95 % intervals over blocks of time.

    None where there are too few texts or blocks: `texts` of `needed`. `ks` is the largest distance of the mean word lengths'
    distributions, `ks_p` the chance of it, by pieces of like length.
    """

    texts: int
    chars: int
    needed: int
    trained_chars: int
    kl: float | None
    kl_low: float | None
    psi: float | None
    psi_low: float | None
    ks: float | None
    ks_p: float | None

    @property
    def is_known(self) -> bool:
        """There is enough to say something."""
        return self.kl_low is not None

    def beyond(self, kl: float, psi: float) -> tuple[str, ...]:
        """Which measures lie above their limits with the whole of their interval."""
        found = (("KL", self.kl_low, kl), ("PSI", self.psi_low, psi))
        return tuple(name for name, low, limit in found if low is not None and low > limit)


def score(blocks: Sequence[Shape], trained: Shape, needed: int) -> Drift:
    """The live texts' blocks of time against the training text."""
    texts, chars = sum(b.texts for b in blocks), sum(b.chars.total() for b in blocks)
    bins = sorted({*trained.chars, *(at for b in blocks for at in b.chars)})
    few = Drift(texts, chars, needed, trained.chars.total(), *(None,) * 6)
    if texts < needed or len(blocks) < MIN_BLOCKS or not trained.chars:
        return few
    place = {at: n for n, at in enumerate(bins)}
    live = np.zeros((len(blocks), len(bins)))
    for row, block in zip(live, blocks, strict=True):
        for at, count in block.chars.items():
            row[place[at]] = count
    reference = np.array([trained.chars.get(at, 0) for at in bins], float)
    whole = live.sum(axis=0, keepdims=True)
    weights = np.random.default_rng(0).multinomial(len(blocks), np.full(len(blocks), 1 / len(blocks)), size=RESAMPLES)
    drawn = weights @ live
    low = (1 - CONFIDENCE) / 2
    kl, psi = _distances(whole, reference)
    kls, psis = _distances(drawn, reference)
    ks, ks_p = _ks(_sum(b.words for b in blocks), trained.words)
    return Drift(
        texts, chars, needed, trained.chars.total(), float(kl[0]), float(np.quantile(kls, low)), float(psi[0]),
        float(np.quantile(psis, low)), ks, ks_p,
    )  # fmt: skip


def _distances(live: Numbers, trained: Numbers) -> tuple[Numbers, Numbers]:
    """KL(live ‖ trained) in nats and PSI of each row of counts [draws, bins] against counts [bins]."""
    p, q = live + SMOOTHING, trained + SMOOTHING
    p, q = p / p.sum(axis=1, keepdims=True), q / q.sum()
    logs = np.log(p / q)
    return (p * logs).sum(axis=1), ((p - q) * logs).sum(axis=1)


def _sum(counts: object) -> dict[int, int]:
    total: dict[int, int] = {}
    for one in counts:  # type: ignore[attr-defined]
        for at, n in one.items():
            total[at] = total.get(at, 0) + n
    return total


def _ks(live: Mapping[int, int], trained: Mapping[int, int]) -> tuple[float | None, float | None]:
    """The Kolmogorov–Smirnov distance of two binned samples and its p-value; binning makes it smaller, never larger."""
    a, b = (np.array([one.get(at, 0) for at in range(WORD_BINS)], float) for one in (live, trained))
    n, m = a.sum(), b.sum()
    if not (n and m):
        return None, None
    distance = float(np.abs(a.cumsum() / n - b.cumsum() / m).max())
    return distance, float(stats.kstwobign.sf(distance * np.sqrt(n * m / (n + m))))
