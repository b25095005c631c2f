"""The serving benchmark's own parts: that both sides run the same model, and that what is missing is said."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from engine.bench.report import Report, Row, limited
from engine.bench.serving import bench, generate, http
from engine.bench.serving.bundles import NANO_CHARS, nano_release, release_of
from engine.bench.serving.calm import Calm
from engine.bench.serving.causal import causal_attention
from engine.bench.serving.seed_server import NanoGpt
from engine.bench.serving.setup import Setup, Windows, reference_text
from engine.bench.serving.sides import Sides
from engine.serving.bundle import read_bundle
from engine.serving.loader import load_bundle
from state.words import OperationFailed, UsageError


@pytest.fixture
def nano(tmp_path: Path) -> Path:
    return nano_release(tmp_path / "nano", layers=2, width=32, heads=2, context=64)


def test_the_seeds_server_and_ours_have_the_same_model(nano: Path) -> None:
    checkpoint = torch.load(nano / "seed" / "ckpt.pt", weights_only=True)
    theirs = NanoGpt(**checkpoint["model_args"])
    theirs.load_state_dict(checkpoint["model"])
    ours = load_bundle(nano / "bundle", None).model
    tokens = torch.randint(len(NANO_CHARS), (1, 40))
    with torch.inference_mode():
        torch.testing.assert_close(theirs(tokens), ours(tokens)[:, [-1]], rtol=1e-4, atol=1e-5)


def test_a_model_is_scored_with_what_it_computes(nano: Path) -> None:
    model = load_bundle(nano / "bundle", None).model
    tokens = torch.randint(len(NANO_CHARS), (30,))
    with torch.inference_mode():
        hidden = model.hidden(tokens, torch.arange(30), causal_attention)
        torch.testing.assert_close(model.head(hidden), model(tokens[None])[0], rtol=1e-4, atol=1e-5)


def test_quality_is_told_as_perplexity_and_as_unchanged_next_tokens() -> None:
    whole = {"nll": math.log(20) * 4, "count": 4, "best": [[1, 2], [3, 4]]}
    quantized = {"nll": math.log(21) * 4, "count": 4, "best": [[1, 2], [3, 5]]}
    assert generate.quality(quantized, whole) == "perplexity 20.00 -> 21.00, same next token 75.0%"


def test_a_percentile_is_a_value_that_occurred() -> None:
    assert http.percentile([float(value) for value in range(1, 21)], 95) == 19.0
    assert http.percentile([7.0], 95) == 7.0


def test_a_model_without_safetensors_is_refused_with_what_would_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no model\.safetensors"):
        release_of(tmp_path, tmp_path / "release")


def test_a_release_of_a_directory_is_one_that_the_server_accepts(nano: Path, tmp_path: Path) -> None:
    release = release_of(nano / "bundle", tmp_path / "release")
    assert read_bundle(release, None).tokenizer.vocab_size == len(NANO_CHARS)


def test_windows_of_text_never_repeat_and_run_out_with_a_sentence(tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit

    words = sorted(set(reference_text().split()))
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token=words[0]))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    windows = Windows(tmp_path, 500)
    taken = [tuple(ids) for ids in windows.take(40)]
    assert len(set(taken)) == 40 and {len(ids) for ids in taken} == {500}
    with pytest.raises(OperationFailed, match="too short"):
        windows.take(10_000)


@pytest.mark.parametrize(
    "rows", [generate.rows, generate.int8_rows, generate.bandwidth_rows, http.rows, http.ttft_rows, http.vllm_rows]
)
def test_what_is_not_installed_makes_rows_that_say_what_to_install(
    rows: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = tmp_path / "some.gguf"
    model.write_bytes(b"GGUF")
    with Sides(1) as sides:
        setup = Setup(sides, Calm(0), 1, True, str(model), None, None)
        found = rows(setup)  # type: ignore[operator]
    assert found
    for row in found:
        assert (row.ours, row.met) == (None, None)
        assert "install" in row.note or "--vllm-python" in row.note


def test_a_side_that_ends_is_told_with_its_last_words(tmp_path: Path) -> None:
    with Sides(1) as sides:
        worker = sides.peer(Path(sys.executable), tmp_path / "nothing", "no-such-dtype")
        with pytest.raises(OperationFailed, match=r"transformers ended with 1: .*no-such-dtype"):
            worker.ask("about")


def test_the_gpus_page_has_the_devices_name(tmp_path: Path) -> None:
    page = bench.record(Report("serving", (), hardware="Some CPU, 8 cores, NVIDIA H100, 81559 MiB"), tmp_path)
    assert page.name == "some-cpu-8-cores-nvidia-h100-81559-mib.md"
    assert "NVIDIA H100" in page.read_text()


def test_a_side_that_fails_is_a_missed_row_and_the_other_rows_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: Setup) -> list[Row]:
        raise OperationFailed("our engine ended with 1: no memory")

    monkeypatch.setattr(bench, "PATIENCE_S", 0.0)
    monkeypatch.setattr(bench, "GROUPS", {"a": fails, "b": lambda _: [limited("fine", "x", [1.0])]})
    options = argparse.Namespace(
        only="", threads=1, quick=True, rounds=1, model="", hf_python=None, vllm_python=None, record=tmp_path
    )
    report = bench.measure(options)
    assert [(row.name, row.met) for row in report.rows] == [("a", False), ("fine", None)]
    assert "no memory" in report.rows[0].note
    assert len(list(tmp_path.glob("*.md"))) == 1
    with pytest.raises(UsageError, match="knows no c"):
        bench.measure(argparse.Namespace(**{**vars(options), "only": "b,c"}))


class Echo:
    """A side that answers every prompt with its own name, `rate` times as fast as one prompt a second."""

    def __init__(self, name: str, rate: float) -> None:
        self._name, self._rate = name, rate

    def ask(self, op: str, prompts: Sequence[object] = (), new: int = 0) -> dict[str, object]:
        if op == "about":
            return {"name": "transformers 9"}
        return {"seconds": len(prompts) * new / self._rate, "texts": [self._name] * len(prompts)}


class Echoes:
    root = Path("/nowhere")

    def peer(self, python: Path, model: Path, dtype: str) -> Echo:
        return Echo("same" if dtype == "float32" else dtype, {"bfloat16": 10.0, "float32": 40.0}[dtype])

    def own_engine(self, bundle: Path, serving: object) -> Echo:
        return Echo("same", 80.0)

    def end(self, worker: Echo) -> None: ...


def test_generate_is_measured_beside_both_dtypes_of_the_peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "release_of", lambda model, to: to)
    monkeypatch.setattr(generate, "Windows", lambda model, width: SimpleNamespace(take=lambda count: [[0]] * count))
    setup = Setup(Echoes(), SimpleNamespace(wait=lambda: None), 2, True, str(tmp_path), Path(sys.executable), None)  # type: ignore[arg-type]
    found = generate.rows(setup)
    assert [(row.other_name, row.ratio, row.met) for row in found] == [
        ("transformers bfloat16", 8.0, True),
        ("transformers float32", 2.0, None),
    ] * 3
    assert [row.note.split(";")[0] for row in found[:2]] == ["transformers 9 in bfloat16", "transformers 9 in float32"]
    assert ["0 of 8 texts" in found[2].note, "8 of 8 texts" in found[3].note] == [True, True]
