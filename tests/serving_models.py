"""Small models of each family on the disk, as their own tools leave them there."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers, trainers

WORDS = "the quick brown fox jumps over the lazy dog and the lazy dog sleeps; a fox, a dog, the end."
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VOCABULARY = 300


def byte_level() -> tokenizers.Tokenizer:
    """A byte-level BPE tokenizer of VOCABULARY tokens at most."""
    model = tokenizers.Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    model.train_from_iterator([WORDS] * 4, trainer)
    return model


def llama(**more: Any) -> Any:
    """A random Llama of transformers', wide enough in its weights that its tokens vary."""
    config = transformers.LlamaConfig(
        vocab_size=304,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.4,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        **more,
    )
    torch.manual_seed(5)
    return transformers.LlamaForCausalLM(config).eval()


def save_huggingface(folder: Path, model: Any, *, shard: str = "1GB") -> None:
    """The directory that save_pretrained makes."""
    model.save_pretrained(folder, max_shard_size=shard)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=byte_level(), bos_token="<|im_start|>", eos_token="<|im_end|>", chat_template=TEMPLATE
    ).save_pretrained(folder)


CHARACTERS = "\n abcdefghijklmnopqrstuvwxyz"
NANOGPT_ARGS = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 32, "vocab_size": len(CHARACTERS)}


def save_nanogpt(folder: Path, weights: dict[str, torch.Tensor], **more: Any) -> None:
    """The out directory of nanoGPT's train.py, its meta.pkl beside."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = {
        "model": weights,
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}},
        "model_args": {**NANOGPT_ARGS, "bias": False, "dropout": 0.0},
        "iter_num": 7,
        "best_val_loss": torch.tensor(1.5),
        "config": {"dataset": "letters", "always_save_checkpoint": True},
        **more,
    }
    torch.save(checkpoint, folder / "ckpt.pt")
    meta = {
        "vocab_size": len(CHARACTERS),
        "itos": dict(enumerate(CHARACTERS)),
        "stoi": {char: index for index, char in enumerate(CHARACTERS)},
    }
    (folder / "meta.pkl").write_bytes(pickle.dumps(meta))


def save_gguf(path: Path, model: Any, kind: str = "F32", change: dict[str, Any] | None = None) -> None:
    """A Llama as llama.cpp's converter writes it; matrices as `kind`. `change` replaces metadata, or tensors by name."""
    import gguf

    config = model.config
    tokenizer = json.loads(byte_level().to_str())["model"]
    tokens = sorted(tokenizer["vocab"], key=tokenizer["vocab"].__getitem__)
    tokens += [f"[PAD{index}]" for index in range(len(tokens), config.vocab_size)]
    metadata: dict[str, Any] = {
        "llama.block_count": config.num_hidden_layers,
        "llama.context_length": config.max_position_embeddings,
        "llama.embedding_length": config.hidden_size,
        "llama.feed_forward_length": config.intermediate_size,
        "llama.attention.head_count": config.num_attention_heads,
        "llama.attention.head_count_kv": config.num_key_value_heads,
        "llama.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token.startswith("<|") else 1 for token in tokens],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in tokenizer["merges"]],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.chat_template": TEMPLATE,
        **(change or {}),
    }
    writer = gguf.GGUFWriter(path, metadata.pop("general.architecture", "llama"))
    extra = {name: metadata.pop(name) for name in list(metadata) if isinstance(metadata[name], np.ndarray)}
    for name, value in metadata.items():
        _add(writer, name, value)
    tensors = {name: tensor.float().numpy() for name, tensor in _gguf_tensors(model).items()} | extra
    for name, tensor in tensors.items():
        quantized = gguf.GGMLQuantizationType[kind if tensor.ndim == 2 else "F32"]
        writer.add_tensor(name, gguf.quants.quantize(tensor, quantized), raw_dtype=quantized)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add(writer: Any, name: str, value: Any) -> None:
    if isinstance(value, list):
        writer.add_array(name, value)
    elif isinstance(value, str):
        writer.add_string(name, value)
    elif isinstance(value, bool):
        writer.add_bool(name, value)
    elif isinstance(value, float):
        writer.add_float32(name, value)
    else:
        writer.add_uint32(name, value)


def _gguf_tensors(model: Any) -> dict[str, torch.Tensor]:
    """The weights under GGUF's names, the rows of rotated heads in llama.cpp's order."""
    config, weights = model.config, model.state_dict()
    found = {
        "token_embd.weight": weights["model.embed_tokens.weight"],
        "output_norm.weight": weights["model.norm.weight"],
    }
    names = {
        "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
        "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
    }  # fmt: skip
    for layer in range(config.num_hidden_layers):
        for theirs, ours in names.items():
            weight = weights[f"model.layers.{layer}.{ours}.weight"]
            heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(theirs)
            if heads:
                weight = weight.reshape(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
            found[f"blk.{layer}.{theirs}.weight"] = weight
    return found
