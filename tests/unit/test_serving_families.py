"""Every family from its own files to tokens: nanoGPT's checkpoint, a Hugging Face directory, sharded or not."""

from __future__ import annotations

import json
import math
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bundles import seal
from safetensors.torch import load_file, save_file
from serving_models import CHARACTERS, NANOGPT_ARGS, VOCABULARY, byte_level, llama, save_huggingface, save_nanogpt
from torch import Tensor
from torch.nn import functional

from engine.serving.compute.generate import generate_text
from engine.serving.convert.__main__ import importer_for
from engine.serving.convert.cache import Made, bundle_of
from engine.serving.loader import load_bundle
from state.words import AirbossError


def made(source: Path, cache: Path, meta: Path | None = None, said: list[str] | None = None) -> Made:
    return bundle_of(importer_for(str(source), meta), cache, (said if said is not None else []).append)


def their_answer(model: Any, ids: list[int], count: int) -> list[int]:
    """Greedy continuation by transformers."""
    with torch.inference_mode():
        for _ in range(count):
            ids = [*ids, int(model(torch.tensor([ids])).logits[0, -1].argmax())]
    return ids[-count:]


def nanogpt_weights(bias: bool, prefix: str = "") -> dict[str, Tensor]:
    """Random weights under nanoGPT's names, as its model.py registers them."""
    torch.manual_seed(2)
    width = NANOGPT_ARGS["n_embd"]
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (NANOGPT_ARGS["vocab_size"], width),
        "transformer.wpe.weight": (NANOGPT_ARGS["block_size"], width),
        "transformer.ln_f.weight": (width,),
    }
    for layer in range(NANOGPT_ARGS["n_layer"]):
        at = f"transformer.h.{layer}."
        shapes |= {
            f"{at}ln_1.weight": (width,),
            f"{at}ln_2.weight": (width,),
            f"{at}attn.c_attn.weight": (3 * width, width),
            f"{at}attn.c_proj.weight": (width, width),
            f"{at}mlp.c_fc.weight": (4 * width, width),
            f"{at}mlp.c_proj.weight": (width, 4 * width),
        }
    if bias:
        shapes |= {
            name.replace(".weight", ".bias"): shape[:1] for name, shape in shapes.items() if ".w" not in name[:15]
        }
    weights = {prefix + name: torch.randn(shape) * (0.1 if "bias" in name else 1) for name, shape in shapes.items()}
    weights[f"{prefix}lm_head.weight"] = weights[f"{prefix}transformer.wte.weight"]
    return weights


def nanogpt_logits(weights: dict[str, Tensor], tokens: list[int]) -> Tensor:
    """nanoGPT's forward pass, written out plainly (Karpathy's model.py): the logits [T, V]."""
    w = {name.removeprefix("_orig_mod.transformer.").removeprefix("transformer."): t for name, t in weights.items()}
    heads, width, length = NANOGPT_ARGS["n_head"], NANOGPT_ARGS["n_embd"], len(tokens)

    def norm(x: Tensor, name: str) -> Tensor:
        return functional.layer_norm(x, (width,), w[f"{name}.weight"], w.get(f"{name}.bias"), 1e-5)

    def linear(x: Tensor, name: str) -> Tensor:
        return functional.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))

    x = w["wte.weight"][tokens] + w["wpe.weight"][:length]
    future = torch.ones(length, length).triu(1).bool()
    for layer in range(NANOGPT_ARGS["n_layer"]):
        at = f"h.{layer}."
        q, k, v = linear(norm(x, f"{at}ln_1"), f"{at}attn.c_attn").split(width, dim=1)
        q, k, v = (t.view(length, heads, width // heads).transpose(0, 1) for t in (q, k, v))
        scores = (q @ k.transpose(1, 2) / math.sqrt(width // heads)).masked_fill(future, -torch.inf)
        y = (scores.softmax(-1) @ v).transpose(0, 1).reshape(length, width)
        x = x + linear(y, f"{at}attn.c_proj")
        x = x + linear(functional.gelu(linear(norm(x, f"{at}ln_2"), f"{at}mlp.c_fc")), f"{at}mlp.c_proj")
    return norm(x, "ln_f") @ w["wte.weight"].T


@pytest.mark.parametrize(("bias", "prefix"), [(True, ""), (False, "_orig_mod.")])
def test_a_nanogpt_checkpoint_answers_as_nanogpt_would(tmp_path: Path, bias: bool, prefix: str) -> None:
    weights = nanogpt_weights(bias, prefix)
    save_nanogpt(tmp_path / "out-letters", weights)
    loaded = load_bundle(made(tmp_path / "out-letters", tmp_path / "cache").bundle, None)
    answers = set()
    for prompt in ("the fox", "a", "z\nz z", "jumps over"):
        tokens = [CHARACTERS.index(char) for char in prompt]
        for _ in range(16):
            tokens.append(int(nanogpt_logits(weights, tokens)[-1].argmax()))
        expected = "".join(CHARACTERS[token] for token in tokens[len(prompt) :])
        assert generate_text(loaded, prompt, 16) == expected
        answers.add(expected)
    assert len(set("".join(answers))) > 5, "the model is too dull for this test to mean anything"


def test_nanogpts_vocabulary_is_found_where_its_own_sampler_looks(tmp_path: Path) -> None:
    save_nanogpt(tmp_path / "out", nanogpt_weights(False))
    (tmp_path / "data" / "letters").mkdir(parents=True)
    (tmp_path / "out" / "meta.pkl").rename(tmp_path / "data" / "letters" / "meta.pkl")
    from_data = made(tmp_path / "out", tmp_path / "cache")
    by_name = made(tmp_path / "out" / "ckpt.pt", tmp_path / "cache", tmp_path / "data" / "letters" / "meta.pkl")
    assert from_data.digest == by_name.digest
    (tmp_path / "data" / "letters" / "meta.pkl").unlink()
    with pytest.raises(AirbossError, match="holds no vocabulary") as refused:
        made(tmp_path / "out", tmp_path / "cache")
    assert "--meta" in refused.value.hint


class Runs:
    """What a hostile pickle would do: run something when it is read."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch ran",)


def hostile_meta(out: Path) -> None:
    (out / "meta.pkl").write_bytes(pickle.dumps({"itos": {0: "a"}, "stoi": Runs()}))


def hostile_checkpoint(out: Path) -> None:
    torch.save({"model": {}, "model_args": {}, "config": Runs()}, out / "ckpt.pt")


def truncated_checkpoint(out: Path) -> None:
    content = (out / "ckpt.pt").read_bytes()
    (out / "ckpt.pt").write_bytes(content[: len(content) // 2])


def other_shape(out: Path) -> None:
    save_nanogpt(out, nanogpt_weights(False), model_args={**NANOGPT_ARGS, "n_embd": 32})


def absurd(name: str, value: object) -> Callable[[Path], None]:
    return lambda out: save_nanogpt(out, nanogpt_weights(False), model_args={**NANOGPT_ARGS, name: value})


def other_model(out: Path) -> None:
    save_nanogpt(out, {"encoder.weight": torch.zeros(2, 2)})


def untied(out: Path) -> None:
    save_nanogpt(out, {**nanogpt_weights(False), "lm_head.weight": torch.zeros(len(CHARACTERS), 16)})


def other_alphabet(out: Path) -> None:
    (out / "meta.pkl").write_bytes(pickle.dumps({"itos": dict(enumerate("abc"))}))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (hostile_meta, r"meta\.pkl is no plain vocabulary and is not read: it asks for posix\.system"),
        (hostile_checkpoint, r"ckpt\.pt holds more than tensors and plain values, and is not unpickled: .*system"),
        (truncated_checkpoint, r"ckpt\.pt is no whole torch checkpoint"),
        (lambda out: torch.save({"weights": 1}, out / "ckpt.pt"), r"is no nanoGPT checkpoint: it has no 'model'"),
        (absurd("n_layer", 10**9), r"weights are not what its model_args say"),
        (absurd("n_embd", 10**9), r"weights are not what its model_args say"),
        (absurd("n_layer", "2"), r"model_args are not nanoGPT's"),
        (absurd("n_head", None), r"model_args are not nanoGPT's"),
        (lambda out: save_nanogpt(out, {"lm_head.weight": 3}), r"holds no tensor"),  # type: ignore[dict-item]
        (other_shape, r"not what its model_args say"),
        (other_model, r"has weights that nanoGPT's model has not: encoder\.weight"),
        (untied, r"has a head apart from its token embedding"),
        (other_alphabet, r"has 3 characters, but the model .* knows 28 tokens"),
        (lambda out: (out / "meta.pkl").write_bytes(b"\x80\x04garbage"), r"is no plain vocabulary"),
        (lambda out: (out / "meta.pkl").write_bytes(pickle.dumps({"itos": {0: "a", 2: "b"}})), r"has no 'itos'"),
        (lambda out: (out / "meta.pkl").write_bytes(pickle.dumps({"itos": ["a", "bc"]})), r"no single character: 'bc'"),
    ],
)
def test_a_nanogpt_that_cannot_be_trusted_is_refused_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], object], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    save_nanogpt(tmp_path / "out", nanogpt_weights(False))
    damage(tmp_path / "out")
    with pytest.raises(AirbossError, match=sentence):
        made(tmp_path / "out", tmp_path / "cache")
    assert not (tmp_path / "ran").exists()
    assert [path.name for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"] == []


@pytest.mark.parametrize("shard", ["1GB", "20KB"])
def test_a_hugging_face_model_answers_as_transformers_does(tmp_path: Path, shard: str) -> None:
    theirs = llama()
    save_huggingface(tmp_path / "fox-llm", theirs, shard=shard)
    assert (len(list((tmp_path / "fox-llm").glob("*.safetensors"))) > 1) == (shard == "20KB")
    loaded = load_bundle(made(tmp_path / "fox-llm", tmp_path / "cache").bundle, None)
    for prompt in ("the lazy dog", "fox 42", "é"):
        answer = their_answer(theirs, loaded.tokenizer.encode(prompt), 12)
        before_the_end = answer[: answer.index(2)] if 2 in answer else answer
        assert generate_text(loaded, prompt, 12) == loaded.tokenizer.decode(before_the_end)
    assert loaded.tokenizer.eos_ids == {2}


def test_weights_stored_in_sixteen_bits_are_computed_in_the_dtype_that_is_asked_for(tmp_path: Path) -> None:
    theirs = llama().to(torch.bfloat16)
    save_huggingface(tmp_path / "half", theirs)
    bundle = made(tmp_path / "half", tmp_path / "cache").bundle
    loaded = load_bundle(bundle, None)
    assert loaded.serving.dtype == "bfloat16"
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.bfloat16}
    stored = load_file(bundle / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(next(loaded.model.parameters()), stored)


def test_the_same_content_is_converted_once_and_other_content_again(tmp_path: Path) -> None:
    save_huggingface(tmp_path / "fox", llama())
    said: list[str] = []
    first = made(tmp_path / "fox", tmp_path / "cache", said=said)
    again = made(tmp_path / "fox", tmp_path / "cache", said=said)
    assert (first.was_there, again.was_there, first.digest) == (False, True, again.digest)
    assert len(said) == 1
    config = json.loads((tmp_path / "fox" / "config.json").read_text())
    (tmp_path / "fox" / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    assert made(tmp_path / "fox", tmp_path / "cache").bundle != first.bundle


def test_what_a_killed_conversion_left_is_thrown_away(tmp_path: Path) -> None:
    save_huggingface(tmp_path / "fox", llama())
    first = made(tmp_path / "fox", tmp_path / "cache")
    first.bundle.rename(tmp_path / "cache" / f".{first.bundle.name}.new")
    (tmp_path / "cache" / f".{first.bundle.name}.new" / "half").write_text("written")
    again = made(tmp_path / "fox", tmp_path / "cache")
    assert (again.was_there, again.digest) == (False, first.digest)


def pickled_weights(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def lost_shard(folder: Path) -> None:
    save_huggingface(folder, llama(), shard="20KB")
    (folder / "model.safetensors").unlink()
    next(folder.glob("model-00002*")).unlink()


def reaching_index(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"lm_head.weight": "../elsewhere.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def other_family(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["GemmaForCausalLM"]}))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (pickled_weights, r"pytorch_model\.bin is a pickle, which could run code"),
        (lost_shard, r"lacks model-00002-of-\d+\.safetensors"),
        (reaching_index, r"names no safetensors files of its own directory"),
        (other_family, r"architecture is 'GemmaForCausalLM'"),
        (lambda folder: (folder / "tokenizer.json").unlink(), r"has no tokenizer\.json"),
        (lambda folder: (folder / "config.json").write_text("{"), r"config\.json is not JSON"),
        (lambda folder: (folder / "config.json").unlink(), r"holds no model that is known here"),
    ],
)
def test_a_directory_that_cannot_be_served_is_refused_in_a_sentence(
    tmp_path: Path, damage: Callable[[Path], object], sentence: str
) -> None:
    save_huggingface(tmp_path / "fox", llama())
    damage(tmp_path / "fox")
    with pytest.raises(AirbossError, match=sentence):
        made(tmp_path / "fox", tmp_path / "cache")


def larger_tokenizer(root: Path) -> None:
    tokenizer = byte_level()
    tokenizer.add_tokens([f"word{number}" for number in range(310 - VOCABULARY)])
    (root / "tokenizer.json").write_text(tokenizer.to_str())


def cut_tensors(root: Path) -> None:
    (root / "model.safetensors").write_bytes((root / "model.safetensors").read_bytes()[:-64])


def without_a_tensor(root: Path) -> None:
    weights = load_file(root / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, root / "model.safetensors")


def integers(root: Path) -> None:
    weights = load_file(root / "model.safetensors")
    save_file({**weights, "model.norm.weight": torch.ones(32, dtype=torch.int8)}, root / "model.safetensors")


def a_number(root: Path) -> None:
    weights = load_file(root / "model.safetensors")
    save_file({**weights, "model.norm.weight": torch.ones(())}, root / "model.safetensors")


def a_tower(root: Path) -> None:
    config = json.loads((root / "config.json").read_text())
    (root / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 10**9}))


def twice(root: Path) -> None:
    save_file({"model.norm.weight": torch.ones(32)}, root / "more.safetensors")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (larger_tokenizer, r"has ids up to 309, but its model ends at 303: it is another model's"),
        (cut_tensors, r"is no safetensors file, or only part of one"),
        (without_a_tensor, r"lack the tensor model\.norm\.weight"),
        (integers, r"model\.norm\.weight is stored as I8"),
        (a_number, r"do not fit its config\.json"),
        (a_tower, r"config\.json says 1000000000 layers, and the weights are \d+ tensors"),
        (twice, r"both hold the tensor model\.norm\.weight"),
        (lambda root: (root / "tokenizer.json").write_text('{"model": {"type": "Magic"}}'), r"cannot be used"),
    ],
)
def test_a_release_whose_files_do_not_fit_each_other_is_refused(
    tmp_path: Path, damage: Callable[[Path], object], sentence: str
) -> None:
    save_huggingface(tmp_path / "fox", llama())
    bundle = made(tmp_path / "fox", tmp_path / "cache").bundle
    damage(bundle)
    seal(bundle)
    with pytest.raises(AirbossError, match=sentence):
        load_bundle(bundle, None)
