"""Drift of live texts from the training snapshot, and costs against budgets: what is said, what alerts, what is too little."""

from __future__ import annotations

import json
import random
from pathlib import Path

from engine.gateway.quality.shapes import ShapeKey, Shapes, prompt_text
from engine.observe.conditions import Facts
from engine.observe.drift import Cost, DriftWatch, TextDrift, firing, read_shapes
from engine.observe.drift_scores import Drift, score
from engine.observe.rules import firing as all_firing
from engine.text_shape import Shape, shape_of_corpus
from state.config import parse_config
from state.models import Dataset, Release, TrackState
from state.store import Store

ENGLISH = ("the quick brown fox jumps over a lazy dog and then it sleeps in the warm sun for hours " * 60).split()


def text(draw: random.Random, words: int = 300) -> str:
    return " ".join(draw.choice(ENGLISH) for _ in range(words))


def blocks(draw: random.Random, count: int, say: str = "") -> list[Shape]:
    found = []
    for _ in range(count):
        shape = Shape()
        for _ in range(20):
            shape.add(say or text(draw, 12))
        found.append(shape)
    return found


def test_texts_of_the_same_kind_do_not_drift_and_others_do() -> None:
    draw = random.Random(3)
    trained = shape_of_corpus(text(draw, 5000))
    same, other = (
        score(blocks(draw, 15), trained, 200),
        score(blocks(draw, 15, "SELECT * FROM t WHERE x = 7;"), trained, 200),
    )
    assert same.beyond(0.5, 0.25) == () and same.kl is not None and same.kl < 0.01
    assert same.ks is not None and same.ks_p is not None
    assert other.beyond(0.5, 0.25) == ("KL", "PSI")
    assert (other.texts, other.chars) == (300, 300 * 28)
    assert other.kl_low is not None and other.kl is not None and other.kl_low <= other.kl


def test_the_divergences_are_those_of_the_textbook() -> None:
    live, trained = Shape(500), Shape(10)
    live.chars.update({97: 750_000, 98: 250_000})
    trained.chars.update({97: 500_000, 98: 500_000})
    eighth = Shape(63, type(live.chars)({97: 93_750, 98: 31_250}))
    found = score([eighth] * 8, trained, 200)
    assert abs((found.kl or 0) - 0.130812) < 1e-5  # 0.75 ln 1.5 + 0.25 ln 0.5
    assert abs((found.psi or 0) - 0.274653) < 1e-5  # (0.75 − 0.5) ln 1.5 + (0.25 − 0.5) ln 0.5


def test_too_few_texts_say_how_many_are_missing_and_alert_nobody() -> None:
    draw = random.Random(3)
    few = score(blocks(draw, 9, "¿¡ñ!?"), shape_of_corpus(text(draw)), 200)
    assert not few.is_known and few.beyond(0.1, 0.1) == ()
    one = TextDrift("chat", "dev", "m-1", "d1", "prompt", few, ())
    assert one.says() == "too few prompts: 180 of 200 in the last hour"
    assert not list(firing([one], []))


def test_what_the_gateway_wrote_is_compared_with_the_live_releases_own_training_text(tmp_path: Path) -> None:
    store, draw = Store.open(tmp_path / "state.db"), random.Random(5)
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.txt").write_text(text(draw, 4000))
    store.write_now(lambda s: s.add_all([
        Dataset(id="d1", sha256="d1", name="x", source="x", path=str(data), rows=1, chars=1, created_at=1.0),
        TrackState(service="chat", env="dev", target="local", track="stable", release_id="m-1", weight=100, since=1.0),
    ]))  # fmt: skip
    store.write_now(lambda s: s.add(Release(id="m-1", service="chat", lifecycle="Production", model_name="m", model_version="1", digest="x",
                                            bundle_path="x", dataset_id="d1", created_by="user:ann", created_at=1.0)))  # fmt: skip
    shapes, lines = Shapes(), []
    for at in range(12):
        for _ in range(20):
            shapes.add(
                ShapeKey("chat", "dev", "m-1", "prompt"), "Wie heißt die Straße, in der ÖPNV-Fahrzeuge übernachten?"
            )
        lines.append(shapes.line(1000.0 + 10 * at))
    (tmp_path / "shapes-g1.jsonl").write_text("\n".join(line for line in lines if line) + '\n{"at": 1, torn')
    config = parse_config("[service.chat.quality]\ndrift = 10\n[environment.dev]\n", tmp_path / "airboss.toml")
    watch = DriftWatch(store, config, tmp_path)
    import asyncio

    asyncio.run(watch.look(2000.0))
    prompt, answer = watch.drifts
    assert prompt.beyond == ("KL", "PSI") and "240 prompts" in prompt.says() and "dataset/d1" in prompt.says()
    assert answer.says() == "too few answers: 0 of 200 in the last hour"
    (alert,) = all_firing(Facts(now=1.0, own=tuple(firing(watch.drifts, []))))
    assert (alert.name, alert.labels["release"]) == ("PromptDrift", "m-1")
    asyncio.run(watch.look(9000.0))  # an hour later nothing of it counts any more
    assert watch.drifts[0].drift is not None and watch.drifts[0].drift.texts == 0
    (data / "train.txt").unlink()
    gone = DriftWatch(store, config, tmp_path)
    asyncio.run(gone.look(2000.0))
    assert "cannot be read" in gone.drifts[0].says()
    store.close()
    assert len(read_shapes(tmp_path, 0.0)["chat", "dev", "m-1", "prompt"]) == 12
    assert "Straße" not in (tmp_path / "shapes-g1.jsonl").read_text()


def test_a_prompt_is_the_last_message_of_a_conversation() -> None:
    body = {"messages": [{"role": "user", "content": "first"}, {"role": "user", "content": "second"}]}
    assert prompt_text(json.dumps(body).encode()) == "second"
    assert prompt_text(b'{"prompt": "x"}') == "x" and prompt_text(b"no") == ""


def test_a_cost_above_its_budget_alerts_once_there_are_enough_requests() -> None:
    dear = Cost("chat", "dev", 300, 0.002, 0.1, 0.001, 0.0)
    (alert,) = firing([], [dear])
    assert alert.name == "CostOverBudget" and "$0.002 for a request, the budget is $0.001" in alert.summary
    assert not list(firing([], [Cost("chat", "dev", 100, 0.002, 0.1, 0.001, 0.0)]))
    assert not list(firing([], [Cost("chat", "dev", 300, 0.002, 0.1, 0.0, 0.0)]))
    assert Cost("chat", "dev", 0, None, None, 0.001, 0.0).says() == "no requests in the last 5 minutes"
    assert Drift(0, 0, 1, 0, *(None,) * 6).is_known is False
