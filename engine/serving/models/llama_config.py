"""What a `config.json` of the Llama family says, in Hugging Face's words, reduced to what changes the computation.

Anything that would change the tokens and is not computed here is refused by name: a wrong answer is worse than none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
"""The values of `architectures` in config.json that this family covers."""


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How rotary frequencies are stretched over a longer context. `kind` is "linear" or "llama3"."""

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 8192

    def apply(self, frequency: float) -> float:
        """A base frequency, scaled. llama3: Llama 3.1's smooth cut between wavelengths (Grattafiori et al. 2024, §3.4)."""
        if self.kind == "linear":
            return frequency / self.factor
        wavelength = 2 * math.pi / frequency
        if wavelength < self.original_context / self.high_freq_factor:
            return frequency
        if wavelength > self.original_context / self.low_freq_factor:
            return frequency / self.factor
        smooth = (self.original_context / wavelength - self.low_freq_factor) / (
            self.high_freq_factor - self.low_freq_factor
        )
        return (1 - smooth) * frequency / self.factor + smooth * frequency


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    """The sizes and variants of one model of the family."""

    n_layer: int
    n_head: int
    n_kv_head: int
    head_dim: int
    n_embd: int
    n_inner: int
    """Width of the gated perceptron."""
    vocab_size: int
    context: int
    norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None = None
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    has_qk_norm: bool = False
    """Queries and keys pass an RMS norm of their own before they are rotated (Qwen3)."""
    is_tied: bool = False
    """The head is the token embedding."""

    def __post_init__(self) -> None:
        for name in ("n_layer", "n_head", "n_kv_head", "head_dim", "n_embd", "n_inner", "vocab_size", "context"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")
        if self.n_head % self.n_kv_head:
            raise ValueError(f"{self.n_head} query heads cannot share {self.n_kv_head} key heads evenly")
        if self.head_dim % 2:
            raise ValueError(f"head_dim ({self.head_dim}) must be even to be rotated")

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> LlamaConfig:
        """The value of a Hugging Face `config.json`. Raises ValueError, naming the field."""
        architecture = architecture_of(value)
        if architecture not in ARCHITECTURES:
            raise ValueError(f"architecture is {architecture!r}; the Llama family here is {', '.join(ARCHITECTURES)}")
        _refuse_what_is_not_computed(value)
        n_head = _int(value, "num_attention_heads")
        n_embd = _int(value, "hidden_size")
        has_bias = bool(value.get("attention_bias", False))
        theta, scaling = _rope(value)
        return cls(
            n_layer=_int(value, "num_hidden_layers"),
            n_head=n_head,
            n_kv_head=_int(value, "num_key_value_heads", n_head),
            head_dim=_int(value, "head_dim", n_embd // max(1, n_head)),
            n_embd=n_embd,
            n_inner=_int(value, "intermediate_size"),
            vocab_size=_int(value, "vocab_size"),
            context=_context(value),
            norm_eps=_float(value, "rms_norm_eps", 1e-6),
            rope_theta=theta,
            rope_scaling=scaling,
            qkv_bias=has_bias or architecture == "Qwen2ForCausalLM",
            out_bias=has_bias and architecture != "Qwen2ForCausalLM",
            mlp_bias=bool(value.get("mlp_bias", False)),
            has_qk_norm=architecture == "Qwen3ForCausalLM",
            is_tied=bool(value.get("tie_word_embeddings", False)),
        )


def architecture_of(value: Mapping[str, Any]) -> str:
    """What a `config.json` calls its model: our `architecture`, or the first of Hugging Face's `architectures`."""
    named = value.get("architecture")
    if named is None:
        listed = value.get("architectures")
        named = listed[0] if isinstance(listed, list) and listed else ""
    return str(named)


def _refuse_what_is_not_computed(value: Mapping[str, Any]) -> None:
    if value.get("hidden_act", "silu") not in ("silu", "swish"):
        raise ValueError(f"hidden_act is {value['hidden_act']!r}; only 'silu' is computed here")
    if value.get("quantization_config"):
        method = dict(value["quantization_config"]).get("quant_method", "some method")
        raise ValueError(f"the weights are quantized by {method}; serve the unquantized model, or its GGUF file")
    if float(value.get("partial_rotary_factor") or 1.0) != 1.0:
        raise ValueError("partial_rotary_factor is set; only whole heads are rotated here")


def _context(value: Mapping[str, Any]) -> int:
    """The longest sequence. With sliding attention, the window: within it, nothing has slid out of sight yet."""
    context = _int(value, "max_position_embeddings")
    window = value.get("sliding_window")
    # Mistral's configs slide whenever there is a window; Qwen's say so beside it, or layer by layer.
    kinds = value.get("layer_types")
    slides = "sliding_attention" in kinds if isinstance(kinds, list) else value.get("use_sliding_window", True)
    return min(context, int(window)) if window and slides else context


def _rope(value: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    """Base and scaling, in the words of transformers before 5 (`rope_theta`, `rope_scaling`) or since."""
    fields = dict(value.get("rope_parameters") or value.get("rope_scaling") or {})
    theta = _float({**value, **fields}, "rope_theta", 10_000.0)
    kind = fields.get("rope_type", fields.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind not in ("linear", "llama3"):
        raise ValueError(f"rope scaling is {kind!r}; 'linear' and 'llama3' are computed here")
    if kind == "linear":
        return theta, RopeScaling("linear", _float(fields, "factor"))
    return theta, RopeScaling(
        "llama3",
        _float(fields, "factor"),
        _float(fields, "low_freq_factor"),
        _float(fields, "high_freq_factor"),
        _int(fields, "original_max_position_embeddings"),
    )


def _int(value: Mapping[str, Any], name: str, default: int | None = None) -> int:
    found = value.get(name)
    if found is None:
        found = default
    if isinstance(found, bool) or not isinstance(found, int):
        raise ValueError(f"{name} must be a whole number, not {found!r}")
    return found


def _float(value: Mapping[str, Any], name: str, default: float | None = None) -> float:
    found = value.get(name)
    if found is None:
        found = default
    if isinstance(found, bool) or not isinstance(found, int | float) or not found > 0:
        raise ValueError(f"{name} must be a number above 0, not {found!r}")
    return float(found)
