"""The Llama family computes what transformers computes: greedy tokens in float32, variant by variant."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from torch.nn import functional

from engine.serving.models.llama import Layer, Llama, weight_sources
from engine.serving.models.llama_config import LlamaConfig

SMALL: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
FAMILY: dict[str, tuple[type, type, dict[str, Any]]] = {
    "llama, tied, grouped heads": (
        transformers.LlamaConfig,
        transformers.LlamaForCausalLM,
        {"tie_word_embeddings": True},
    ),
    "llama, biases, wide heads": (
        transformers.LlamaConfig,
        transformers.LlamaForCausalLM,
        {"attention_bias": True, "mlp_bias": True, "head_dim": 16, "rms_norm_eps": 1e-3},
    ),
    "llama 3 scaling": (transformers.LlamaConfig, transformers.LlamaForCausalLM, {"rope_parameters": LLAMA3}),
    "linear scaling": (
        transformers.LlamaConfig,
        transformers.LlamaForCausalLM,
        {"rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 100.0}},
    ),
    "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM, {"sliding_window": None}),
    "qwen 2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM, {"tie_word_embeddings": True}),
    "qwen 3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM, {"head_dim": 8}),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small are slower on two threads, and far slower beside busy neighbours."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Causal:
    """Attention of one sequence with nothing but what it has seen: the plainest `Attend` there is."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if layer in self._seen:
            key = torch.cat((self._seen[layer][0], key))
            value = torch.cat((self._seen[layer][1], value))
        self._seen[layer] = (key, value)
        past = len(key) - len(query)
        mask = torch.ones(len(query), len(key), dtype=torch.bool).tril(past)
        heads = [tensor.transpose(0, 1)[None] for tensor in (query, key, value)]
        out = functional.scaled_dot_product_attention(*heads, attn_mask=mask, enable_gqa=True)
        return out[0].transpose(0, 1).reshape(len(query), -1)


def greedy(model: Llama, prompt: list[int], count: int, chunk: int) -> list[int]:
    """Greedy continuation: the prompt in chunks, then token by token."""
    attend, tokens = Causal(), list(prompt)
    at = 0
    while len(tokens) < len(prompt) + count:
        step = tokens[at : at + chunk]
        hidden = model.hidden(torch.tensor(step), torch.arange(at, at + len(step)), attend)
        at += len(step)
        if at == len(tokens):
            tokens.append(int(model.head(hidden[-1:])[0].argmax()))
    return tokens[len(prompt) :]


def ours(theirs: Any) -> Llama:
    """Our model with their weights."""
    config = LlamaConfig.from_json({**theirs.config.to_dict(), "architectures": [type(theirs).__name__]})
    weights = theirs.state_dict()
    model = Llama(config)
    joined = {name: torch.cat([weights[part] for part in parts]) for name, parts in weight_sources(config).items()}
    model.load_state_dict(joined, assign=True, strict=True)
    model.tie()
    return model.eval().requires_grad_(False)


def build(case: str) -> Any:
    config_kind, model_kind, more = FAMILY[case]
    torch.manual_seed(11)
    theirs = model_kind(config_kind(**{**SMALL, **more})).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if parameter.dim() == 1:
                parameter.copy_(torch.rand_like(parameter) + (0.5 if "norm" in name else -0.5))
    return theirs


def their_greedy_agrees(theirs: Any, prompt: list[int], answer: list[int]) -> bool:
    """Whether `answer` is what greedy decoding gives: each token is the likeliest behind all before it."""
    logits = theirs(torch.tensor([prompt + answer])).logits[0]
    return bool((logits[len(prompt) - 1 : -1].argmax(-1) == torch.tensor(answer)).all())


@pytest.mark.parametrize("case", FAMILY)
@torch.inference_mode()
def test_greedy_tokens_are_those_of_transformers_on_twenty_prompts(case: str) -> None:
    theirs, rng = build(case), random.Random(5)
    model = ours(theirs)
    seen = set()
    for _ in range(20):
        prompt = [rng.randrange(SMALL["vocab_size"]) for _ in range(rng.randint(1, 40))]
        answer = greedy(model, prompt, 12, chunk=rng.choice([3, 64]))
        assert their_greedy_agrees(theirs, prompt, answer)
        seen.update(answer)
    assert len(seen) > 10, "the model is too dull for this test to mean anything"


def test_a_tied_head_is_one_parameter_and_is_counted_once() -> None:
    theirs = build("llama, tied, grouped heads")
    model = ours(theirs)
    assert model.lm_head.weight is model.embedding.weight
    assert model.parameter_count() == sum(parameter.numel() for parameter in theirs.parameters())


def test_its_shape_is_what_a_cache_must_know() -> None:
    shape = ours(build("qwen 3")).shape
    assert (shape.n_layer, shape.n_head, shape.n_kv_head, shape.head_dim, shape.context) == (2, 4, 2, 8, 64)


BASE = {"architectures": ["LlamaForCausalLM"], **SMALL}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"architectures": ["GemmaForCausalLM"]}, "architecture is 'GemmaForCausalLM'"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rope scaling is 'yarn'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantized by gptq"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"num_key_value_heads": 3}, "4 query heads cannot share 3 key heads"),
        ({"hidden_size": None}, "hidden_size must be a whole number"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps must be a number"),
        ({"head_dim": 7}, "must be even"),
        ({"vocab_size": 0}, "vocab_size must be a whole number of at least 1"),
    ],
)
def test_what_is_not_computed_here_is_refused_by_name(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        LlamaConfig.from_json({**BASE, **change})


def test_a_sliding_window_bounds_the_context() -> None:
    mistral = {**BASE, "architectures": ["MistralForCausalLM"], "sliding_window": 32}
    qwen = {**BASE, "architectures": ["Qwen2ForCausalLM"], "sliding_window": 32}
    assert LlamaConfig.from_json(mistral).context == 32
    assert LlamaConfig.from_json({**qwen, "use_sliding_window": False}).context == 64
    assert LlamaConfig.from_json({**qwen, "layer_types": ["full_attention", "sliding_attention"]}).context == 32


def test_a_step_of_many_rows_is_computed_as_one_of_few() -> None:
    torch.manual_seed(6)
    config = LlamaConfig.from_json(BASE)
    layer = Layer(config, 0)
    for parameter in layer.parameters():
        parameter.data = torch.randn(parameter.shape) / 5
    rows = torch.randn(1100, config.n_embd)
    cos, sin = torch.ones(1100, 1, config.head_dim), torch.zeros(1100, 1, config.head_dim)

    def alone(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return query.flatten(1)

    with torch.inference_mode():
        whole = layer(rows, cos, sin, alone)
        parts = [layer(rows[at : at + 100], cos[:100], sin[:100], alone) for at in range(0, 1100, 100)]
    torch.testing.assert_close(whole, torch.cat(parts))
