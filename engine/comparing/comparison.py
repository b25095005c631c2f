"""`release compare`: all that is known of two releases side by side, and the sentence that it comes to. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from engine.comparing.reading import Evaluated, Live
from engine.comparing.statistics import (
    MIN_BLOCKS,
    Block,
    Compared,
    Metric,
    Says,
    latency_quantile,
    ratio,
    segments,
    shares,
    verdict,
)

MIN_REQUESTS = 200
MIN_CHECKED = 50
MIN_PIECES = 30
MIN_RATED = 30
_RATED = Metric("answers that users rated down", "", "", "", "ratings", MIN_RATED)
NOT_AT_ONCE = "hardly ever at one time: load and prompts may differ"
ACCURACY, QUALITY, ERRORS = "next-character accuracy", "answers that fail a quality check", "errors"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Rows of metrics, and what they say in a sentence. `together` is how many blocks of time both releases served in."""

    rows: tuple[Compared, ...]
    together: int
    sentence: str


def compare(
    a: tuple[str, Live, Evaluated],
    b: tuple[str, Live, Evaluated],
    usd_per_hour: float,
    rated: tuple[tuple[int, int], tuple[int, int]] | None = None,
) -> Comparison:
    """Compare release A with B, each (name, live counts, evaluation). Costs need the price of a replica's hour, US dollars.

    `rated` is, of each, how many users rated an answer down, and how many rated one up or down.
    """
    (name_a, live_a, eval_a), (name_b, live_b, eval_b) = a, b
    shared = sorted(live_a.blocks.keys() & live_b.blocks.keys())
    is_paired = len(shared) >= MIN_BLOCKS
    arms = [[live.blocks[key] for key in (shared if is_paired else sorted(live.blocks))] for live in (live_a, live_b)]
    rows = (
        *_evaluation(name_a, eval_a, name_b, eval_b),
        *([shares(_RATED, *rated)] if rated is not None else []),
        *_live(arms[0], arms[1], max(live_a.bounds, live_b.bounds, key=len), is_paired, usd_per_hour),
    )
    return Comparison(rows, len(shared), _sentence(name_a, name_b, rows))


def _evaluation(name_a: str, a: Evaluated, name_b: str, b: Evaluated) -> Iterator[Compared]:
    """Quality where both were scored on one text; else B's own comparison with its baseline, where that was A."""
    if a.bits and a.heldout == b.heldout and len(a.bits) == len(b.bits):
        yield segments(ACCURACY, "", a.hits, b.hits, samples="pieces of text", needed=MIN_PIECES, higher_is_better=True)
        yield segments("held-out bits a character", "bits", a.bits, b.bits, samples="pieces of text", needed=MIN_PIECES)
    elif b.baseline == name_a and b.against:
        yield _own("held-out bits a character", b.baseline_bpc, b.bpc, b, 1)
    elif a.baseline == name_b and a.against:
        yield _own("held-out bits a character", a.bpc, a.baseline_bpc, a, -1)
    elif a.bpc is not None and b.bpc is not None:
        yield replace(
            segments("held-out bits a character", "bits", (), (), samples="pieces of text", needed=MIN_PIECES,
                     note="scored on different held-out texts: no difference can be said"), a=a.bpc, b=b.bpc)  # fmt: skip
    prompts = sorted(a.faults.keys() & b.faults.keys())
    if prompts:
        faulty = [[float(bool(one.faults[name])) for name in prompts] for one in (a, b)]
        yield segments("fixed prompts answered with a fault", "", *faulty, samples="prompts", needed=MIN_PIECES)


def _own(metric: str, a: float | None, b: float | None, of: Evaluated, sign: int) -> Compared:
    mean, low, high = (sign * float(of.against[end]) for end in ("mean", "low", "high"))
    low, high = min(low, high), max(low, high)
    pieces = int(of.against.get("segments", 0))
    return Compared(
        metric, "bits", a, b, mean, low, high, of.confidence, pieces, pieces, "pieces of text", MIN_PIECES,
        verdict(low, high) if pieces >= MIN_PIECES else Says.FEW, "evaluation", "scored side by side when the newer was made",
    )  # fmt: skip


def _live(
    a: Sequence[Block], b: Sequence[Block], bounds: Sequence[float], is_paired: bool, usd_per_hour: float
) -> Iterator[Compared]:
    note = "" if is_paired else NOT_AT_ONCE
    per_s = usd_per_hour / 3600
    money = (
        (Metric("cost per request", "$", "busy_s", "requests", "requests", MIN_REQUESTS, per_s, note),
         Metric("cost per 1,000 tokens", "$", "busy_s", "tokens", "requests", MIN_REQUESTS, 1000 * per_s, note))
        if per_s
        else (Metric("replica time per request", "s", "busy_s", "requests", "requests", MIN_REQUESTS, 1.0, note or "no usd_per_hour is set"),)
    )  # fmt: skip
    yield ratio(Metric(QUALITY, "", "failed", "checked", "checked", MIN_CHECKED, note=note), a, b, is_paired=is_paired)
    yield ratio(
        Metric(ERRORS, "", "errors", "requests", "requests", MIN_REQUESTS, note=note), a, b, is_paired=is_paired
    )
    yield ratio(
        Metric("mean latency", "ms", "latency_s", "requests", "requests", MIN_REQUESTS, 1000.0, note),
        a,
        b,
        is_paired=is_paired,
    )
    for q in (0.5, 0.95):
        found = latency_quantile(q, bounds, a, b, is_paired=is_paired, needed=MIN_REQUESTS)
        yield replace(found, note=note)
    for metric in money:
        yield ratio(metric, a, b, is_paired=is_paired)


def _sentence(name_a: str, name_b: str, rows: Sequence[Compared]) -> str:
    said = {says: [row.metric for row in rows if row.says is says] for says in Says}
    better, worse, few = said[Says.B], said[Says.A], said[Says.FEW]
    parts = []
    if better:
        parts.append(f"{name_b} is better than {name_a} in {', '.join(better)}")
    if worse:
        parts.append(f"{'worse' if better else f'{name_b} is worse than {name_a}'} in {', '.join(worse)}")
    if not parts:
        parts.append(
            f"no difference between {name_a} and {name_b} is seen" if said[Says.SAME] else "nothing can be said yet"
        )
    sentence = ", and ".join(parts)
    return f"{sentence}; too few samples for {', '.join(few)}" if few else sentence
