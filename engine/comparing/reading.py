"""What is known of two releases: live counts from the store by blocks of time, and what their own evaluation left in the bundle."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlmodel import Session, col, func, select

from engine.comparing.statistics import Block
from state.digests import MANIFEST_NAME
from state.models import Evidence
from state.words import Track

BLOCK_S = 5.0
MOST_BLOCKS = 720
"""Blocks grow with the time looked at, so that drawing them stays cheap."""
MOST_ROWS = 200_000


@dataclass(slots=True)
class Live:
    """A release's counts by block: (environment, number of the block) → counts. `bounds` end the latency buckets, seconds."""

    blocks: dict[tuple[str, int], Block] = field(default_factory=dict)
    bounds: tuple[float, ...] = (math.inf,)


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What a bundle says of its evaluation; empty where it says nothing.

    `bits` and `hits` are means over pieces of the held-out text `heldout` (its sha256), in its order; `faults` is prompt → number
    of faults of its answer; `baseline` names the release it was compared with, `against` that difference (mean, low, high).
    """

    heldout: str = ""
    bits: tuple[float, ...] = ()
    hits: tuple[float, ...] = ()
    faults: Mapping[str, int] = field(default_factory=dict)
    bpc: float | None = None
    baseline: str = ""
    baseline_bpc: float | None = None
    against: Mapping[str, float] = field(default_factory=dict)
    confidence: float = 0.95


def read_live(session: Session, service: str, releases: tuple[str, str], env: str, since: float) -> dict[str, Live]:
    """The blocks of each release since `since` (Unix seconds), of one environment or, with "", of all. A shadow's count for nobody."""
    mine: list[Any] = [
        Evidence.service == service,
        col(Evidence.release_id).in_(releases),
        col(Evidence.t1) > since,
        Evidence.track != Track.SHADOW.value,
        *([Evidence.env == env] if env else []),
    ]
    first, last = session.exec(select(func.min(Evidence.t1), func.max(Evidence.t1)).where(*mine)).one()
    width = max(BLOCK_S, ((last or 0.0) - (first or 0.0)) / MOST_BLOCKS)
    query = select(
        col(Evidence.release_id), col(Evidence.env), col(Evidence.t0), col(Evidence.t1), col(Evidence.requests),
        col(Evidence.errors), col(Evidence.checked), col(Evidence.failed), col(Evidence.busy_s), col(Evidence.tokens),
        col(Evidence.latency),
    ).where(*mine)  # type: ignore[call-overload]  # fmt: skip
    found = {release: Live() for release in releases}
    for row in session.execute(query.order_by(col(Evidence.t1).desc()).limit(MOST_ROWS)):
        live = found[row.release_id]
        latency, bounds = _buckets(row.latency)
        if bounds and len(bounds) > len(live.bounds):
            live.bounds = bounds
        block = Block(
            row.requests, row.errors, row.checked, row.failed, row.busy_s, row.tokens,
            float((row.latency or {}).get("sum", 0.0)), latency,
        )  # fmt: skip
        if block.requests or block.checked:
            key = (row.env, int((row.t0 + row.t1) / 2 // width))
            live.blocks[key] = live.blocks.get(key, Block()) + block
    return found


def _buckets(latency: Mapping[str, Any]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """A cumulative histogram as requests per bucket, and the buckets' ends."""
    cumulative = sorted(
        (math.inf if le == "+Inf" else float(le), int(n)) for le, n in (latency or {}).get("buckets", {}).items()
    )
    counts = [n for _, n in cumulative]
    return tuple(n - before for n, before in zip(counts, [0, *counts], strict=False)), tuple(le for le, _ in cumulative)


def read_evaluation(bundle: Path) -> Evaluated:
    """What the manifest of a bundle says of its evaluation. Blocks. One that cannot be read says nothing."""
    try:
        manifest = json.loads((bundle / MANIFEST_NAME).read_text(encoding="utf-8"))
        body = manifest["lineage"]["evaluation"]
    except (OSError, ValueError, KeyError, TypeError):
        return Evaluated()
    pieces = body.get("pieces") or {}
    baseline = body.get("baseline") or {}
    return Evaluated(
        heldout=str(pieces.get("heldout_sha256", "")),
        bits=tuple(pieces.get("bits", ())),
        hits=tuple(pieces.get("hits", ())),
        faults=dict(body.get("prompt_faults") or {}),
        bpc=body.get("heldout_bpc"),
        baseline=str(baseline.get("name", "")),
        baseline_bpc=baseline.get("bpc"),
        against=dict(body.get("difference") or {}),
        confidence=float(body.get("confidence", 0.95)),
    )
