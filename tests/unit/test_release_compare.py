"""A/B comparison of two releases: what is said of a true difference, of none, and of too little."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest

from engine.comparing.comparison import NOT_AT_ONCE, Comparison, compare
from engine.comparing.reading import Evaluated, Live, read_evaluation, read_live
from engine.comparing.statistics import Block, Compared, Metric, Says, latency_quantile, ratio, segments
from state.models import Evidence
from state.store import Store

BOUNDS = (0.1, 0.2, 0.5, math.inf)
NOTHING = Evaluated()


def live(
    seed: int, *, failing: float = 0.1, slow: float = 0.2, busy_s: float = 0.05, blocks: int = 40, first: int = 0
) -> Live:
    """Blocks of about 20 requests; `slow` of them in the third bucket, the others in the first."""
    draw = random.Random(seed)
    found = Live(bounds=BOUNDS)
    for at in range(first, first + blocks):
        n = draw.randrange(15, 25)
        late = sum(draw.random() < slow for _ in range(n))
        found.blocks["production", at] = Block(
            n, 0, n, sum(draw.random() < failing for _ in range(n)), n * busy_s * draw.uniform(0.9, 1.1), 10 * n,
            0.05 * n + 0.3 * late, (n - late, 0, late, 0),
        )  # fmt: skip
    return found


def row(found: Comparison, metric: str) -> Compared:
    return next(r for r in found.rows if r.metric == metric)


def test_a_release_that_hallucinates_less_and_costs_less_is_said_to_be_better_in_both() -> None:
    found = compare(("m-1", live(1), NOTHING), ("m-2", live(2, failing=0.03, busy_s=0.04), NOTHING), 3.6)
    quality, cost = row(found, "answers that fail a quality check"), row(found, "cost per request")
    assert quality.says is Says.B and cost.says is Says.B
    assert quality.low is not None and quality.high is not None and quality.difference is not None
    assert quality.low < quality.difference < quality.high < 0
    assert cost.a == pytest.approx(0.00005, rel=0.05) and cost.change_pct == pytest.approx(-20, abs=3)
    assert row(found, "errors").says is Says.SAME
    assert found.sentence.startswith("m-2 is better than m-1 in answers that fail a quality check")


def test_two_of_the_same_are_not_told_apart_more_often_than_the_level_allows() -> None:
    metric = Metric("quality", "", "failed", "checked", "checked", 50)
    arms = [(list(live(s).blocks.values()), list(live(s + 100).blocks.values())) for s in range(40)]
    told = sum(ratio(metric, a, b, is_paired=False, resamples=300).says is not Says.SAME for a, b in arms)
    assert told <= 6  # 5 % of 40 is 2; over 6 has a chance of 0.3 %


def test_users_ratings_tell_two_apart_once_there_are_enough() -> None:
    nobody = ("m-1", Live(), NOTHING), ("m-2", Live(), NOTHING), 0.0
    found = row(compare(*nobody, rated=((40, 100), (10, 100))), "answers that users rated down")
    assert found.says is Says.B and found.difference == pytest.approx(-0.3)
    assert found.low == pytest.approx(-0.41, abs=0.02) and found.high == pytest.approx(-0.19, abs=0.02)
    assert row(compare(*nobody, rated=((4, 10), (0, 10))), "answers that users rated down").says is Says.FEW


def test_too_few_samples_give_no_interval_and_no_verdict() -> None:
    found = compare(("m-1", live(1), NOTHING), ("m-2", live(2, failing=1.0, blocks=9), NOTHING), 0.0)
    errors = row(found, "errors")
    assert errors.says is Says.FEW and errors.low is None and errors.n_b < errors.needed == 200
    assert "too few samples for errors" in found.sentence
    assert row(found, "answers that fail a quality check").says is Says.A  # 50 checked answers are enough for that
    assert "nothing can be said yet" in compare(("m-1", Live(), NOTHING), ("m-2", Live(), NOTHING), 0.0).sentence


def test_releases_that_served_at_one_time_are_compared_over_that_time_alone() -> None:
    busy = live(1, slow=0.9, blocks=30)  # an hour of high load that only the older release saw
    busy.blocks |= live(3, first=100, blocks=30).blocks
    found = compare(("m-1", busy, NOTHING), ("m-2", live(4, first=100, blocks=30), NOTHING), 0.0)
    latency = row(found, "mean latency")
    assert found.together == 30 and latency.says is Says.SAME and latency.note == ""
    apart = compare(("m-1", live(1, slow=0.9), NOTHING), ("m-2", live(4, first=100), NOTHING), 0.0)
    assert row(apart, "mean latency").note == NOT_AT_ONCE


def test_a_quantile_is_linear_inside_its_bucket() -> None:
    blocks = [Block(requests=20, latency=(10, 0, 10, 0))] * 20
    found = latency_quantile(0.75, BOUNDS, blocks, blocks, is_paired=True, needed=200)
    assert found.a == found.b == pytest.approx(350.0)
    assert (found.low, found.high, found.says) == (0.0, 0.0, Says.SAME)


def test_evaluations_on_one_text_are_paired_and_on_two_are_not_compared() -> None:
    draw = random.Random(5)
    base = [draw.uniform(1, 3) for _ in range(100)]  # pieces differ far more than the releases do
    a = Evaluated("t1", tuple(base), tuple(1 - b / 4 for b in base), bpc=2.0)
    b = Evaluated("t1", tuple(v - draw.uniform(0.01, 0.03) for v in base), tuple(1 - v / 4 for v in base), bpc=1.98)
    found = compare(("m-1", Live(), a), ("m-2", Live(), b), 0.0)
    assert row(found, "held-out bits a character").says is Says.B
    assert row(found, "next-character accuracy").says is Says.SAME
    other = Evaluated("t2", b.bits, b.hits, bpc=1.98)
    assert row(compare(("m-1", Live(), a), ("m-2", Live(), other), 0.0), "held-out bits a character").says is Says.FEW
    own = Evaluated(
        "t2",
        bpc=1.9,
        baseline="m-1",
        baseline_bpc=2.0,
        against={"mean": -0.1, "low": -0.12, "high": -0.08, "segments": 90},
    )
    assert row(compare(("m-1", Live(), a), ("m-2", Live(), own), 0.0), "held-out bits a character").says is Says.B
    back = row(compare(("m-2", Live(), own), ("m-1", Live(), a), 0.0), "held-out bits a character")
    assert (back.says, back.difference, back.low, back.high) == (Says.A, 0.1, 0.08, 0.12)
    with pytest.raises(ValueError, match="no pairs"):
        segments("x", "", [1.0], [], samples="", needed=1)


def test_counts_and_evaluations_are_read_from_where_they_are(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "state.db")
    latency = {"buckets": {"0.1": 3, "0.2": 3, "+Inf": 5}, "sum": 1.5}

    def counted(seq: int, track: str, release: str, env: str = "dev") -> Evidence:
        return Evidence(boot_id="g", seq=seq, table_revision=1, t0=1000.0 + seq, t1=1001.0 + seq, service="chat", env=env, target="local",
                        track=track, release_id=release, requests=5, errors=1, checked=2, failed=1, busy_s=0.5, tokens=40, latency=latency)  # fmt: skip

    rows = [counted(1, "stable", "m-1"), counted(2, "canary", "m-2"), counted(3, "stable", "m-1"), counted(4, "shadow", "m-2"),
            counted(5, "stable", "m-1", "production")]  # fmt: skip
    store.write_now(lambda s: s.add_all(rows))
    found = store.read_now(lambda s: read_live(s, "chat", ("m-1", "m-2"), "dev", 0.0))
    store.close()
    assert found["m-1"].blocks == {("dev", 200): Block(10, 2, 4, 2, 1.0, 80, 3.0, (6, 0, 4))}
    assert found["m-2"].blocks == {("dev", 200): Block(5, 1, 2, 1, 0.5, 40, 1.5, (3, 0, 2))}
    assert found["m-1"].bounds == (0.1, 0.2, math.inf)
    body = {"heldout_bpc": 2.5, "pieces": {"heldout_sha256": "ab", "bits": [2.5], "hits": [0.5]}, "prompt_faults": {"odd": 1},
            "baseline": {"name": "m-0", "bpc": 2.6}, "difference": {"mean": -0.1}}  # fmt: skip
    (tmp_path / "release.json").write_text(json.dumps({"lineage": {"evaluation": body}}))
    assert read_evaluation(tmp_path) == Evaluated("ab", (2.5,), (0.5,), {"odd": 1}, 2.5, "m-0", 2.6, {"mean": -0.1})
    assert read_evaluation(tmp_path / "none") == Evaluated()
