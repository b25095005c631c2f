"""What the two sides of a row serve: releases for our model server, and the same weights in the other's form."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from state.digests import bundle_digest, hash_tree
from state.words import UsageError

NANO_CHARS = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
"""The 65 characters of nanoGPT's Shakespeare."""
_NANO_NAMES = (
    ("token_embedding.", "transformer.wte."),
    ("position_embedding.", "transformer.wpe."),
    ("blocks.", "transformer.h."),
    (".norm_1.", ".ln_1."),
    (".norm_2.", ".ln_2."),
    (".attention.qkv.", ".attn.c_attn."),
    (".attention.proj.", ".attn.c_proj."),
    (".up.", ".mlp.c_fc."),
    (".down.", ".mlp.c_proj."),
)
"""Our name of a weight -> nanoGPT's."""
_FROM_HUGGING_FACE = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")


def nano_release(root: Path, *, layers: int = 6, width: int = 384, heads: int = 6, context: int = 256) -> Path:
    """A nanoGPT-class model of random weights (10.8 M at the default sizes), for both sides.

    `root/bundle` is the release for our server, `root/seed` has nanoGPT's `ckpt.pt` and the vocabulary.
    """
    import torch
    from safetensors.torch import save_file

    from engine.serving.models.gpt import GPT, GPTConfig

    torch.manual_seed(1337)
    config = GPTConfig(layers, heads, width, context, len(NANO_CHARS), bias=False)
    weights = GPT(config).state_dict()
    bundle, seed = root / "bundle", root / "seed"
    bundle.mkdir(parents=True)
    seed.mkdir()
    save_file(weights, bundle / "model.safetensors")
    (bundle / "config.json").write_text(json.dumps(config.to_json()), encoding="utf-8")
    (bundle / "tokenizer.json").write_text(json.dumps({"type": "char", "chars": list(NANO_CHARS)}), encoding="utf-8")
    seal(bundle, "nano-bench")
    sizes = {"n_layer": layers, "n_head": heads, "n_embd": width, "block_size": context}
    model = {nano_name(name): value for name, value in weights.items()}
    arguments = {**sizes, "vocab_size": len(NANO_CHARS), "bias": False}
    torch.save({"model_args": arguments, "model": model}, seed / "ckpt.pt")
    (seed / "meta.json").write_text(json.dumps(list(NANO_CHARS)), encoding="utf-8")
    return root


def nano_name(name: str) -> str:
    """Our name of a weight in nanoGPT's words."""
    if name.startswith("norm."):
        return f"transformer.ln_f.{name.removeprefix('norm.')}"
    for ours, theirs in _NANO_NAMES:
        name = name.replace(ours, theirs)
    return name


def release_of(model: Path, root: Path) -> Path:
    """A release in `root` of the Hugging Face directory `model`. Raises UsageError when it is none.

    Weights are linked where the file system lets them be, so that nothing is copied.
    """
    weights = model / "model.safetensors"
    if not weights.is_file():
        raise UsageError(
            f"{model} holds no model.safetensors",
            hint="give --model a Hugging Face directory whose weights are in one safetensors file, a .gguf, or smollm",
        )
    root.mkdir(parents=True)
    for name in (*_FROM_HUGGING_FACE, "chat_template.jinja"):
        if (model / name).is_file():
            shutil.copy(model / name, root / name)
    try:
        os.link(weights.resolve(), root / weights.name)
    except OSError:
        shutil.copy(weights, root / weights.name)
    seal(root, model.name)
    return root


def seal(root: Path, release_id: str, more: Mapping[str, Any] | None = None) -> str:
    """Write the manifest over everything in `root`; returns the release's digest."""
    files = hash_tree(root)
    digest = bundle_digest(files)
    listed = [{"path": file.path, "sha256": file.sha256, "size": file.size} for file in files]
    manifest = {"release_id": release_id, "digest": digest, "files": listed, **(more or {})}
    (root / "release.json").write_text(json.dumps(manifest), encoding="utf-8")
    return digest


def weight_bytes(bundle: Path) -> int:
    """Bytes of a release's weights on the disk."""
    return (bundle / "model.safetensors").stat().st_size
