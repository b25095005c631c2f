"""The compiled kernels give what torch gives; and without them, everything is served all the same."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch.nn import functional

from engine.bench.serving.causal import causal_attention
from engine.serving.compute import assemble
from engine.serving.compute.assemble import engine_for, optimize
from engine.serving.compute.native import build
from engine.serving.compute.native import kernels as native_kernels
from engine.serving.compute.native.build import built
from engine.serving.compute.native.kernels import GELU, PLUS, SWISH, TIMES, Kernels, kernels
from engine.serving.compute.native.layout import lay_out
from engine.serving.compute.native.model import is_exchanged
from engine.serving.loader import LoadedModel
from engine.serving.models.gpt import GPT, GPTConfig
from engine.serving.models.llama import Llama, rotate
from engine.serving.models.llama_config import LlamaConfig
from engine.serving.request import SamplingParams
from engine.serving.settings import ServingSettings
from engine.serving.tokenizer import CharTokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz012345"
SHAPE = GPTConfig(n_layer=2, n_head=4, n_embd=128, block_size=96, vocab_size=32)
LLAMA = {
    "architectures": ["LlamaForCausalLM"], "vocab_size": 32, "hidden_size": 96, "intermediate_size": 160,
    "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 96,
    "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "hidden_act": "silu", "rope_theta": 10000.0,
}  # fmt: skip


@pytest.fixture(name="found")
def native() -> Kernels:
    found = kernels()
    if found is None:
        pytest.skip("no C compiler here, or none that makes these kernels")
    return found


@pytest.mark.parametrize("rows", [1, 4, 7, 200])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.int8])
def test_a_product_and_what_follows_it_are_those_of_torch(found: Kernels, kind: torch.dtype, rows: int) -> None:
    torch.manual_seed(rows)
    # No width of these is a whole number of panels.
    weight, bias = torch.randn(75, 50) / 7, torch.randn(75)
    x, other = torch.randn(rows, 50), torch.randn(rows, 75)
    if kind is torch.int8:
        scale = torch.rand(75) / 50
        stored = (weight * 50).round().to(kind)
        product, whole = found.quantized(stored, scale, bias), stored.float() * scale[:, None]
    else:
        product, whole = found.product(weight.to(kind), bias), weight.to(kind).float()
    plain = functional.linear(x, whole, bias)
    for ours, theirs in (
        (product(x), plain),
        (product(x, PLUS, other), plain + other),
        (product(x, TIMES, other), plain * other),
        (product(x, SWISH), functional.silu(plain)),
        (product(x, GELU), functional.gelu(plain)),
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_laid_out_weight_still_gives_its_rows(dtype: torch.dtype) -> None:
    weight = torch.randn(37, 12).to(dtype)
    index = torch.tensor([36, 0, 17, 17])
    assert torch.equal(lay_out(weight).rows(index), weight[index].float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("heads", [(6, 2, 32), (4, 4, 16), (16, 1, 64)])
def test_attention_reads_each_rows_blocks_and_no_more(
    found: Kernels, dtype: torch.dtype, heads: tuple[int, int, int]
) -> None:
    torch.manual_seed(1)
    n_head, n_kv_head, head_dim = heads
    keys, values = (torch.randn(24, 16, n_kv_head, head_dim).to(dtype) for _ in range(2))
    query, lengths = torch.randn(3, n_head, head_dim), torch.tensor([1, 300, 129])
    tables = torch.stack([torch.randperm(24)[:19] for _ in lengths])
    seen = found.past(tables, lengths, 16, heads, dtype).attend(query, keys, values)
    for row, length in enumerate(lengths.tolist()):
        k, v = (part[tables[row]].flatten(0, 1)[:length].transpose(0, 1).float() for part in (keys, values))
        expected = functional.scaled_dot_product_attention(query[row, :, None], k, v, enable_gqa=True)
        torch.testing.assert_close(seen[row], expected.flatten(), atol=1e-4, rtol=1e-4)


def test_what_is_not_a_number_stays_none(found: Kernels) -> None:
    keys = torch.randn(2, 16, 1, 16)
    keys[0, 3] = torch.nan
    query, table = torch.randn(1, 2, 16), torch.tensor([[0, 1]])
    seen = found.past(table, torch.tensor([20]), 16, (2, 1, 16), torch.float32).attend(
        query, keys, torch.randn_like(keys)
    )
    assert seen.isnan().all()
    cache = torch.zeros(2, 16, 1, 16, dtype=torch.bfloat16)
    found.store(keys[0], torch.arange(16), cache)
    assert cache[0, 3].isnan().all() and torch.equal(cache[0, 4], keys[0, 4].bfloat16())


def test_heads_turn_as_torch_turns_them(found: Kernels) -> None:
    torch.manual_seed(2)
    heads, table = torch.randn(5, 4, 16), torch.randn(5, 2, 16)
    cos, sin = (part.unsqueeze(1) for part in table.unbind(1))
    expected = rotate(heads, 3, cos, sin)
    torch.testing.assert_close(found.rotate(heads, 3, cos, sin), expected)


def a_model(kind: str) -> GPT | Llama:
    torch.manual_seed(3)
    if kind == "gpt":
        return GPT(SHAPE).eval()
    llama = Llama(LlamaConfig.from_json(LLAMA))
    state = {name: torch.randn(value.shape) / 6 for name, value in llama.state_dict().items()}
    state |= {name: torch.ones_like(value) for name, value in state.items() if "norm" in name}
    state["lm_head.weight"] = state["embedding.weight"]
    llama.load_state_dict(state, strict=True, assign=True)
    llama.tie()
    return llama.eval()


def texts_of(kind: str, settings: ServingSettings, *, exchanged: bool) -> list[str]:
    """Greedy answers to prompts of several lengths, which arrive while others decode."""
    model = a_model(kind).to(getattr(torch, settings.dtype)).requires_grad_(False)
    loaded = LoadedModel(model, CharTokenizer(LETTERS), model.config, settings)
    optimize(loaded)
    assert is_exchanged(model) is exchanged
    core = engine_for(loaded)
    texts = [""] * 4
    for number in range(4):
        core.add(
            number + 1, [number + 1] * (1 + 9 * number), SamplingParams(max_tokens=24, temperature=0.0), arrived_at=0.0
        )
        for _ in range(3):
            for update in core.step().updates:
                texts[update.number - 1] += update.text
    while core.has_work:
        for update in core.step().updates:
            texts[update.number - 1] += update.text
    return texts


@pytest.mark.parametrize("kind", ["gpt", "llama"])
def test_answers_are_those_of_torch_whatever_computes(found: Kernels, kind: str) -> None:
    whole = texts_of(kind, ServingSettings(native_kernels=False, max_batch_tokens=32), exchanged=False)
    # Where the processor multiplies bfloat16, these kernels do the attention alone.
    exchanged = not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert texts_of(kind, ServingSettings(max_batch_tokens=32), exchanged=exchanged) == whole


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_products_of_onednn_go_with_the_compiled_attention(
    found: Kernels, monkeypatch: pytest.MonkeyPatch, dtype: Literal["float32", "bfloat16"]
) -> None:
    whole = texts_of("llama", ServingSettings(native_kernels=False, dtype=dtype, max_batch_tokens=32), exchanged=False)
    monkeypatch.setattr(assemble, "_may_exchange", lambda loaded: False)
    texts = texts_of("llama", ServingSettings(dtype=dtype, max_batch_tokens=32), exchanged=False)
    # Sums in another order, rounded to 8 bits: a token may fall otherwise where two are as likely.
    assert texts == whole if dtype == "float32" else [text[:2] for text in texts] == [text[:2] for text in whole]


@pytest.mark.skipif(torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="oneDNN's products are the faster ones here")
@pytest.mark.parametrize("kind", ["gpt", "llama"])
def test_bfloat16_weights_answer_as_their_float32_values_do(found: Kernels, kind: str) -> None:
    rounded = a_model(kind).to(torch.bfloat16)
    settings = ServingSettings(dtype="bfloat16", max_batch_tokens=32)
    said = texts_of(kind, settings, exchanged=True)
    tokens = torch.tensor([LETTERS.index(char) for char in said[3]])
    prompt = torch.tensor([4] * 28)
    given = torch.cat((prompt, tokens))
    with torch.inference_mode():
        wide = rounded.float()
        hidden = wide.hidden(given, torch.arange(len(given)), causal_attention)
        logits = wide.head(hidden)[len(prompt) - 1 : -1]
    # The cache is bfloat16: a token may fall otherwise where two are as likely.
    best = logits.max(-1).values - logits[torch.arange(24), tokens]
    assert best.max() < 0.02 * logits.abs().max()


def test_without_a_compiler_torch_computes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CC", str(tmp_path / "nothing"))
    assert built() is None


def test_a_compiler_that_fails_is_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", "false")
    assert built() is None
    assert list(tmp_path.rglob("*.so")) == []


def test_a_library_that_others_can_write_is_not_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(build, "_digest", lambda compiler: "known")
    folder = tmp_path / "airboss" / "kernels"
    folder.mkdir(parents=True)
    library = folder / "known.so"
    library.touch()
    monkeypatch.setenv("CC", "true")
    for entry, mode in ((library, 0o666), (folder, 0o777), (folder.parent, 0o775)):
        for each, own in ((library, 0o600), (folder, 0o700), (folder.parent, 0o700)):
            each.chmod(own)
        assert built() == library
        entry.chmod(mode)
        assert built() is None, entry


def test_what_a_permissive_umask_would_let_others_write_is_this_users_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text('#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\necho made > "$2"\n')
    compiler.chmod(0o700)
    monkeypatch.setenv("CC", str(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "new" / "cache"))
    before = os.umask(0o002)
    try:
        path = built()
    finally:
        os.umask(before)
    assert path is not None and path.read_text() == "made\n"
    assert [entry.stat().st_mode & 0o777 for entry in (path, path.parent, path.parent.parent)] == [0o700] * 3


@pytest.mark.parametrize("stated", ["", "beside"])
def test_a_cache_that_is_no_absolute_path_is_not_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stated: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", stated)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(build, "_digest", lambda compiler: "known")
    library = tmp_path / ".cache" / "airboss" / "kernels" / "known.so"
    for folder in reversed(library.parents[:3]):
        folder.mkdir(mode=0o700)
    library.touch(mode=0o600)
    monkeypatch.setenv("CC", "true")
    assert built() == library


def test_what_cannot_be_loaded_is_made_anew_at_the_next_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torn = tmp_path / "torn.so"
    torn.touch()
    monkeypatch.setattr(native_kernels, "built", lambda: torn)
    assert native_kernels.kernels.__wrapped__() is None
    assert not torn.exists()
