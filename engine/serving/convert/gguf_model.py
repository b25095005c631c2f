"""GGUF, llama.cpp's format: one file with weights, often quantized, and the tokenizer among its metadata.

Weights are made whole again in bfloat16, under Hugging Face's names, so the bundle is one that transformers and vLLM
read as well. Needs the `gguf` package.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.serving.bundle import (
    CONFIG_NAME,
    GENERATION_NAME,
    SERVING_NAME,
    TOKENIZER_CONFIG_NAME,
    TOKENIZER_NAME,
)
from engine.serving.convert.gguf_tokenizer import tokenizer_files
from engine.serving.convert.shards import ShardWriter
from engine.serving.convert.source import Say, SourceRefused, write_json
from engine.serving.models.llama_config import LlamaConfig, RopeScaling, architecture_of

_ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_WHOLE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
ROPE_FACTORS = "rope_freqs.weight"
"""Llama 3's scaling, already worked out: what each base frequency is divided by."""


class Gguf:
    """The model in one `.gguf` file."""

    kind = "gguf"

    def __init__(self, path: Path) -> None:
        self._path = path
        self.name = path.stem

    def files(self) -> list[Path]:
        """See Importer."""
        return [self._path]

    def write(self, into: Path, say: Say) -> None:
        """See Importer."""
        reader = _open(self._path)
        fields: dict[str, Any] = {name: field.contents() for name, field in reader.fields.items()}
        tensors = {str(tensor.name): tensor for tensor in reader.tensors}
        config = self._config(fields, tensors)
        try:
            parsed = LlamaConfig.from_json(config)
            files = tokenizer_files(fields)
        except ValueError as error:
            raise SourceRefused(
                f"{self._path}: {error}", hint="serve another model here, or this one with llama.cpp"
            ) from error
        write_json(into / CONFIG_NAME, config)
        (into / TOKENIZER_NAME).write_text(files.tokenizer, encoding="utf-8")
        write_json(into / TOKENIZER_CONFIG_NAME, files.config)
        write_json(
            into / GENERATION_NAME, {name: config[name] for name in ("bos_token_id", "eos_token_id") if name in config}
        )
        write_json(into / SERVING_NAME, {"dtype": "bfloat16"})
        self._write_weights(into, tensors, parsed, is_permuted=architecture_of(config) == "LlamaForCausalLM", say=say)

    def _config(self, fields: Mapping[str, Any], tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Hugging Face's `config.json` of this file. Raises SourceRefused."""
        family = str(fields.get("general.architecture"))
        if family not in _ARCHITECTURES:
            raise SourceRefused(
                f"{self._path} is a {family} model; GGUF files of {', '.join(_ARCHITECTURES)} are served here",
                hint='serve this one with llama.cpp (backend = "command")',
            )
        if fields.get(f"{family}.expert_count"):
            raise SourceRefused(f"{self._path} is a mixture of experts, which is not served here", hint="use llama.cpp")

        def value(name: str, default: Any = None) -> Any:
            return fields.get(f"{family}.{name}", default)

        try:
            n_head, n_embd = int(value("attention.head_count")), int(value("embedding_length"))
            head_dim = int(value("attention.key_length", n_embd // n_head))
            config = {
                "architectures": [_ARCHITECTURES[family]],
                "model_type": family,
                "hidden_size": n_embd,
                "intermediate_size": int(value("feed_forward_length")),
                "num_hidden_layers": int(value("block_count")),
                "num_attention_heads": n_head,
                "num_key_value_heads": int(value("attention.head_count_kv", n_head)),
                "head_dim": head_dim,
                "vocab_size": int(tensors["token_embd.weight"].shape[1]),
                "max_position_embeddings": int(value("context_length")),
                # Stored in 32 bits: 1e-5 comes back as 9.999999747e-06.
                "rms_norm_eps": float(
                    np.format_float_positional(np.float32(value("attention.layer_norm_rms_epsilon")))
                ),
                "rope_theta": float(value("rope.freq_base", 10_000.0)),
                "hidden_act": "silu",
                "tie_word_embeddings": "output.weight" not in tensors,
                "attention_bias": family == "llama" and "blk.0.attn_q.bias" in tensors,
                "torch_dtype": "bfloat16",
            }
        except (TypeError, KeyError, ValueError, ZeroDivisionError) as error:
            raise SourceRefused(f"{self._path} does not say its shape: {error}", hint="download it again") from error
        if int(value("rope.dimension_count", head_dim)) != head_dim:
            raise SourceRefused(
                f"{self._path} rotates only part of each head, which is not computed here", hint="use llama.cpp"
            )
        scaling = self._scaling(value("rope.scaling.type"), value("rope.scaling.factor"), tensors, config)
        if scaling:
            config["rope_scaling"] = scaling
        for name, key in (("bos_token_id", "bos_token_id"), ("eos_token_id", "eos_token_id")):
            token = fields.get(f"tokenizer.ggml.{key}")
            if token is not None:
                config[name] = int(token)
        return config

    def _scaling(
        self, kind: Any, factor: Any, tensors: Mapping[str, Any], config: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        if kind not in (None, "none", "linear"):
            raise SourceRefused(
                f"{self._path} scales rotary positions by {kind!r}, which is not computed here", hint="use llama.cpp"
            )
        if kind == "linear":
            return {"rope_type": "linear", "factor": float(factor)}
        if ROPE_FACTORS not in tensors:
            return None
        # The file has Llama 3's factors, not what they were made from; find that again, and see that it gives them.
        factors = np.asarray(tensors[ROPE_FACTORS].data, dtype=np.float64)
        guess = RopeScaling("llama3", float(factors.max()), 1.0, 4.0, 8192)
        half = int(config["head_dim"]) // 2
        base = [float(config["rope_theta"]) ** (-index / half) for index in range(half)]
        expected = np.array([frequency / guess.apply(frequency) for frequency in base])
        if factors.shape != expected.shape or not np.allclose(factors, expected, rtol=1e-3):
            raise SourceRefused(f"{self._path} scales rotary positions in a way of its own", hint="use llama.cpp")
        return {
            "rope_type": "llama3",
            "factor": guess.factor,
            "low_freq_factor": guess.low_freq_factor,
            "high_freq_factor": guess.high_freq_factor,
            "original_max_position_embeddings": guess.original_context,
        }

    def _write_weights(
        self, into: Path, tensors: Mapping[str, Any], config: LlamaConfig, *, is_permuted: bool, say: Say
    ) -> None:
        names = {name: _their_name(name) for name in tensors if name != ROPE_FACTORS}
        unknown = [name for name, theirs in names.items() if theirs is None]
        if unknown:
            raise SourceRefused(f"{self._path} has a tensor that is not known here: {unknown[0]}", hint="use llama.cpp")
        writer = ShardWriter(into, 2 * sum(int(tensors[name].n_elements) for name in names))
        for number, (name, theirs) in enumerate(names.items()):
            if number % 64 == 0:
                say(f"making weights whole: {number} of {len(names)}")
            whole = self._whole(tensors[name])
            if is_permuted and ".attn_q." in name:
                whole = _halves_apart(whole, config.n_head)
            elif is_permuted and ".attn_k." in name:
                whole = _halves_apart(whole, config.n_kv_head)
            writer.add(str(theirs), whole.to(torch.bfloat16))
        writer.close()

    def _whole(self, tensor: Any) -> Tensor:
        """A tensor without its quantization, float32, rows first."""
        from gguf.quants import dequantize

        try:
            values = dequantize(tensor.data, tensor.tensor_type)
        except (NotImplementedError, ValueError) as error:
            raise SourceRefused(
                f"{self._path}: {tensor.name} is quantized as {tensor.tensor_type.name}, which cannot be made whole: {error}",
                hint="take a Q4_0, Q4_K, Q8_0, F16 or BF16 file of the model",
            ) from error
        # GGUF counts dimensions from the innermost; numpy's view of it is in torch's order already.
        shape = [int(size) for size in reversed(tensor.shape)]
        return torch.from_numpy(np.array(values, dtype=np.float32).reshape(shape))


def _open(path: Path) -> Any:
    try:
        import gguf
    except ModuleNotFoundError as error:
        raise SourceRefused(
            f"{path} is a GGUF file, and the package that reads them is not installed",
            hint="pip install 'airboss[gguf]'",
        ) from error
    try:
        return gguf.GGUFReader(path)
    except OSError as error:
        raise SourceRefused(f"{path} cannot be read: {error.strerror or error}", hint="name a .gguf file") from error
    except Exception as error:
        # The reader maps the file and trusts its counts: a truncated one fails wherever they point.
        raise SourceRefused(
            f"{path} is no whole GGUF file: {type(error).__name__}: {error}", hint="download it again"
        ) from error


def _their_name(name: str) -> str | None:
    """A GGUF tensor's name at Hugging Face; None if there is none in this family."""
    if name in _WHOLE:
        return _WHOLE[name]
    found = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
    if not found or found.group(2) not in _LAYER:
        return None
    return f"model.layers.{found.group(1)}.{_LAYER[found.group(2)]}.{found.group(3)}"


def _halves_apart(weight: Tensor, heads: int) -> Tensor:
    """Undo llama.cpp's order of a rotated head's rows, [pairs side by side], to Hugging Face's, [halves apart]."""
    pairs = weight.reshape(heads, weight.shape[0] // heads // 2, 2, *weight.shape[1:])
    return pairs.transpose(1, 2).reshape(weight.shape)
