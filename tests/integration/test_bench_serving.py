"""The serving benchmark on real servers of a tiny model: the seed's and ours, side by side."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.bench.serving.bundles import nano_release
from engine.bench.serving.http_load import load
from engine.bench.serving.sides import Sides
from state.words import OperationFailed

pytestmark = pytest.mark.deep


@pytest.fixture(scope="module")
def sides() -> Iterator[Sides]:
    with Sides(1, is_shared=True) as started:
        yield started


@pytest.fixture(scope="module")
def nano(sides: Sides) -> Path:
    return nano_release(sides.root / "nano", layers=2, width=32, heads=2, context=64)


def test_both_servers_give_the_same_greedy_text_to_the_same_clients(sides: Sides, nano: Path) -> None:
    seed = sides.seed_server(nano / "seed")
    ours = sides.own_server(nano / "bundle", {"max_batch": 4})
    bodies = [{"prompt": f"Prompt of {word}", "max_tokens": 12, "top_k": 1} for word in ("one", "two", "three")]
    theirs = load(seed, "/generate", bodies, 3)
    mine = load(ours, "/generate", bodies, 3)
    assert [answer.tokens for answer in mine.answers] == [12] * 3
    assert sorted(answer.text for answer in theirs.answers) == sorted(answer.text for answer in mine.answers)
    assert ours.memory_bytes() > 50e6
    asked = {"prompt": "abc", "max_tokens": 5, "stream": True, "stream_options": {"include_usage": True}}
    streamed = load(ours, "/v1/completions", [asked], 1).answers[0]
    assert (streamed.tokens, len(streamed.text)) == (5, 5)
    assert 0 < streamed.first_s <= streamed.total_s
    with pytest.raises(OperationFailed, match="ours answered 400"):
        load(ours, "/generate", [{"prompt": "x" * 500}], 1)
    assert len(load(seed, "/generate", bodies * 2, 3, enough=1).answers) >= 1


def test_our_engine_answers_orders_without_http(sides: Sides, nano: Path) -> None:
    engine = sides.own_engine(nano / "bundle", {"max_batch": 4})
    assert engine.ask("about")["parameters"] > 10_000
    answer = engine.ask("generate", prompts=[[1, 2, 3], [4, 5, 6, 7]], new=7)
    assert answer["tokens"] == 14
    assert [len(text) for text in answer["texts"]] == [7, 7]
    score = engine.ask("score", windows=[[1, 2, 3, 4], [5, 6, 7, 8]])
    assert (score["count"], [len(best) for best in score["best"]]) == (6, [3, 3])
    assert 0 < score["nll"] / score["count"] < 20
    sides.end(engine)
