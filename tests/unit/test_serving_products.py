"""Packed and quantized matrix products give what plain ones give, as nearly as their bits allow."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from engine.bench.serving.causal import causal_attention
from engine.serving.compute.assemble import engine_for, optimize
from engine.serving.compute.packing import PackedLinear, can_pack
from engine.serving.compute.quantize import Int4, Int8Dynamic, Int8WeightOnly, multiplies_integers, quantize
from engine.serving.loader import LoadedModel
from engine.serving.models.gpt import GPT, GPTConfig
from engine.serving.models.linear import Linear
from engine.serving.request import SamplingParams
from engine.serving.settings import ServingSettings
from engine.serving.tokenizer import CharTokenizer
from state.words import ConfigError

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WIDE = GPTConfig(n_layer=2, n_head=4, n_embd=128, block_size=32, vocab_size=32)


@pytest.mark.parametrize("make", [PackedLinear, Int8Dynamic, Int8WeightOnly, Int4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 3, 17])
def test_an_exchanged_product_is_near_the_plain_one(make: type, dtype: torch.dtype, rows: int) -> None:
    if make is PackedLinear and not can_pack(dtype):
        pytest.skip(f"this machine's torch packs no {dtype}")
    if make is Int8Dynamic and not multiplies_integers():
        pytest.skip("this machine's integer products overflow")
    torch.manual_seed(rows)
    plain = Linear(256, 64)
    x, residual = torch.randn(rows, 256), torch.randn(rows, 64)
    with torch.inference_mode():
        exchanged = make(plain.to(dtype))
        plain.float()
        tolerance = {PackedLinear: 0.02, Int8Dynamic: 0.05, Int8WeightOnly: 0.05, Int4: 0.4}[make]
        for ours, theirs in (
            (exchanged(x.to(dtype)), plain(x)),
            (exchanged.plus(x.to(dtype), residual.to(dtype)), plain.plus(x, residual)),
            (exchanged.times(x.to(dtype), residual.to(dtype)), plain.times(x, residual)),
            (exchanged.swish(x.to(dtype)), plain.swish(x)),
            (exchanged.gelu(x.to(dtype)), plain.gelu(x)),
        ):
            assert ours.dtype is dtype
            assert (ours.float() - theirs).abs().max() < tolerance
            assert torch.nn.functional.cosine_similarity(ours.float(), theirs, dim=-1).min() > 0.98


def tokens_of(settings: ServingSettings) -> list[str]:
    torch.manual_seed(3)
    loaded = LoadedModel(
        GPT(WIDE).eval().to(getattr(torch, settings.dtype)), CharTokenizer(LETTERS + "012345"), WIDE, settings
    )
    optimize(loaded)
    core = engine_for(loaded)
    for number in (1, 2, 3):
        core.add(number, [number, 5, 9], SamplingParams(max_tokens=12, temperature=0.0), arrived_at=0.0)
    texts = ["", "", ""]
    while core.has_work:
        for update in core.step().updates:
            assert update.error is None
            texts[update.number - 1] += update.text
    return texts


@pytest.mark.parametrize("kind", ["none", "int8", "int8_weight_only", "int4"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_quantized_model_answers_in_every_dtype(kind: str, dtype: str) -> None:
    texts = tokens_of(ServingSettings(quantization=kind, dtype=dtype))  # type: ignore[arg-type]
    assert [len(text) for text in texts] == [12, 12, 12]


@pytest.mark.parametrize("native", [True, False])
def test_int8_keeps_the_likeliest_tokens_on_every_machine(native: bool) -> None:
    torch.manual_seed(3)
    gpt = GPT(WIDE).eval()
    tokens = torch.randint(0, 32, (24,))
    with torch.inference_mode():
        whole = gpt(tokens[None])[0]
        settings = ServingSettings(quantization="int8", native_kernels=native)
        optimize(LoadedModel(gpt, CharTokenizer(LETTERS + "012345"), WIDE, settings))
        found = gpt.head(gpt.hidden(tokens, torch.arange(24), causal_attention))
    assert (found - whole).abs().max() < 0.05 * whole.abs().max()


def test_packing_changes_no_greedy_token_in_float32() -> None:
    torch.manual_seed(3)
    plain = LoadedModel(GPT(WIDE).eval(), CharTokenizer(LETTERS + "012345"), WIDE, ServingSettings())
    core = engine_for(replace(plain))
    core.add(1, [1, 5, 9], SamplingParams(max_tokens=12, temperature=0.0), arrived_at=0.0)
    text = ""
    while core.has_work:
        text += "".join(update.text for update in core.step().updates)
    assert tokens_of(ServingSettings())[0] == text


def test_a_width_that_int4_cannot_have_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="multiples of 128"):
        quantize(GPT(GPTConfig(n_embd=96, n_head=4)), "int4", torch.device("cpu"))


@pytest.mark.parametrize("kind", [Int8Dynamic, Int8WeightOnly])
def test_an_outlier_in_one_token_takes_nothing_from_its_neighbours(kind: type[nn.Module]) -> None:
    torch.manual_seed(4)
    product = kind(Linear(64, 48))
    tokens = torch.randn(9, 64)
    with torch.inference_mode():
        alone = product(tokens[1:])
        tokens[0] *= 1000.0
        beside = product(tokens)[1:]
    torch.testing.assert_close(beside, alone)


def test_int8_products_are_within_two_hundredths_of_whole_ones() -> None:
    if not multiplies_integers():
        pytest.skip("this machine's integer products overflow")
    torch.manual_seed(4)
    linear = Linear(256, 128)
    tokens = torch.randn(5, 256) * torch.tensor([0.01, 1.0, 3.0, 50.0, 1000.0])[:, None]
    with torch.inference_mode():
        whole, quantized = linear(tokens), Int8Dynamic(linear)(tokens)
    error = (quantized - whole).norm(dim=-1) / whole.norm(dim=-1)
    assert error.max() < 0.02
