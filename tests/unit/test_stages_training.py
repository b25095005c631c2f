"""The training loop and the train stage: repeatable, measured, and stopped when it diverges."""

from __future__ import annotations

import math
import string
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from engine.pipelines.stage import StageContext, StageResult
from engine.pipelines.stages import collect, snapshot, train, validate
from engine.pipelines.stages.model_files import load_model
from engine.pipelines.stages.trainer import LossCurve, Recipe, learning_rate, repeatable, shards_of
from engine.pipelines.stages.trainer import train as train_model
from engine.serving.models.gpt import GPT, GPTConfig
from state.digests import file_sha256
from state.words import OperationFailed, UsageError

TINY: dict[str, Any] = {
    "steps": 12,
    "batch": 16,
    "n_layer": 1,
    "n_head": 2,
    "n_embd": 16,
    "block_size": 16,
    "warmup_steps": 3,
}


def recipe(**changes: Any) -> Recipe:
    base: dict[str, Any] = {"steps": 20, "batch": 16, "lr": 1e-2, "warmup_steps": 5, "seed": 1}
    return Recipe(**{**base, "dtype": torch.float32, "device": torch.device("cpu"), **changes})


def trained(tokens: torch.Tensor, how: Recipe) -> tuple[dict[str, torch.Tensor], LossCurve]:
    with repeatable(how.seed):
        model = GPT(GPTConfig(1, 2, 16, 8, 5))
        curve = train_model(model, tokens, how, lambda _: None)
    return model.state_dict(), curve


def test_the_same_seed_makes_the_same_weights_and_another_makes_others() -> None:
    tokens = torch.arange(400) % 5
    one, again, other = (trained(tokens, recipe(seed=seed, shards=2))[0] for seed in (1, 1, 2))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_shards_add_up_to_the_whole_batch() -> None:
    tokens = torch.arange(400) * 7 % 5
    whole, parts = (trained(tokens, recipe(steps=3, shards=shards))[1].losses for shards in (1, 2))
    assert parts == pytest.approx(whole, rel=1e-5)


def test_a_pattern_is_learned() -> None:
    _, curve = trained(torch.arange(400) % 5, recipe(steps=80, lr=2e-2))
    assert curve.losses[0] == pytest.approx(math.log(5), rel=0.1)
    assert curve.losses[-1] < 0.3
    assert curve.divergence() == pytest.approx(1.0, abs=0.1)
    assert (curve.drop() or 1) < 0.3


def test_a_loss_that_is_no_number_ends_the_training_at_once() -> None:
    _, curve = trained(torch.arange(400) % 5, recipe(lr=1e30, warmup_steps=0, steps=500))
    assert len(curve.losses) < 500
    assert curve.divergence() is None
    assert curve.drop() is None


def test_the_learning_rate_warms_up_and_falls_to_a_tenth() -> None:
    rates = [learning_rate(step, recipe(steps=100, warmup_steps=10, lr=1.0)) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[10] == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize(("batch", "threads", "shards"), [(32, 2, 2), (32, 64, 4), (4, 8, 1), (16, 1, 1)])
def test_small_batches_are_not_cut_into_more_shards_than_pay(batch: int, threads: int, shards: int) -> None:
    assert shards_of(batch, threads) == shards


def test_divergence_is_the_end_against_the_best() -> None:
    assert LossCurve([4.0, 2.0, 1.0, 2.0]).divergence() == 2.0
    assert LossCurve([4.0, 3.0, 2.0, 1.0]).divergence() == 1.0
    assert LossCurve([]).divergence() is None


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    line = "the deck is clear and the wires are set for the next aircraft to come aboard"
    text = "\n\n".join(f"{line[i % 11 : 40 + i % 37]} at {i} hours." for i in range(400))
    (root / "x.txt").write_text(text)
    for name, module, needs in (
        ("collect", collect, ()),
        ("snapshot", snapshot, ("collect",)),
        ("validate", validate, ("snapshot",)),
    ):
        run_stage(root, root / name, name, module, needs, {"text": "x.txt"} if name == "collect" else {})
    return root


def run_stage(
    root: Path, out: Path, name: str, module: Any, needs: tuple[str, ...], params: dict[str, Any]
) -> StageResult:
    out.mkdir()
    ctx = StageContext("run-1", name, params, {n: root / n for n in needs}, out, None, {"workspace": str(root)})
    result: StageResult = module.run(ctx)
    return result


def run_train(root: Path, out: Path, **params: Any) -> StageResult:
    return run_stage(root, out, "train", train, ("validate",), {**TINY, **params})


def test_the_stage_writes_safetensors_and_json_only_and_every_prompt_encodes(data: Path, tmp_path: Path) -> None:
    result = run_train(data, tmp_path / "out")
    written = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert written == [
        "model/config.json",
        "model/model.safetensors",
        "model/tokenizer.json",
        "progress.json",
        "training.json",
    ]
    assert not result.refused_by
    model, tokenizer = load_model(tmp_path / "out" / "model", torch.device("cpu"))
    assert tokenizer.decode(tokenizer.encode(string.printable[:95])) == string.printable[:95]
    assert model.config.vocab_size == tokenizer.vocab_size
    assert all(t.dtype == torch.float32 for t in load_file(tmp_path / "out" / "model" / "model.safetensors").values())


def test_the_stage_is_repeatable_to_the_byte_and_records_what_it_depends_on(data: Path, tmp_path: Path) -> None:
    one, two = run_train(data, tmp_path / "one"), run_train(data, tmp_path / "two")
    assert file_sha256(tmp_path / "one/model/model.safetensors") == file_sha256(
        tmp_path / "two/model/model.safetensors"
    )
    training = one.facts["training"]
    assert training["seed"] == 1337
    assert set(training["environment"]) >= {"python", "torch", "numpy", "safetensors", "processor", "system"}
    assert training["dataset"] == two.facts["training"]["dataset"]
    assert training["loss_curve"][-1][0] == training["steps"] == 12
    assert [mark["step"] for mark in training["marks"]] == sorted({round(12 * i / 10) for i in range(1, 11)})


def test_a_diverging_training_is_refused_and_leaves_no_model(data: Path, tmp_path: Path) -> None:
    result = run_train(data, tmp_path / "out", lr=1e30, warmup_steps=0, steps=50)
    assert {gate.name for gate in result.refused_by} == {"loss_divergence", "loss_drop"}
    assert not (tmp_path / "out" / "model").exists()
    result.to_json()


def test_shapes_that_cannot_be_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="n_embd"):
        run_train(data, tmp_path / "one", n_head=3)
    with pytest.raises(UsageError, match="context"):
        run_train(data, tmp_path / "two", block_size=1_000_000)
    with pytest.raises(UsageError, match="no release 'nine'"):
        run_train(data, tmp_path / "three", weights_from="nine")


def test_a_model_whose_files_do_not_fit_is_refused_in_a_sentence(data: Path, tmp_path: Path) -> None:
    run_train(data, tmp_path / "out")
    weights = tmp_path / "out" / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(OperationFailed, match="cannot be loaded"):
        load_model(tmp_path / "out" / "model", torch.device("cpu"))
