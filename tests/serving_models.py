"""Small models of each family on the disk, as their own tools leave them there."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

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
