"""Releases on the disk for tests: a small random GPT of ours, and the manifest of any directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from engine.serving.models.gpt import GPT, GPTConfig
from state.digests import bundle_digest, hash_tree

CHARS = "\n abcdefghijklmnopqrstuvwxyz?"


def seal(root: Path, release_id: str = "charlm-1") -> str:
    """Write the manifest of what is there now (what is wrong then was released so); returns the digest."""
    files = hash_tree(root, exclude=("release.json",))
    digest = bundle_digest(files)
    listed = [{"path": file.path, "sha256": file.sha256, "size": file.size} for file in files]
    (root / "release.json").write_text(json.dumps({"release_id": release_id, "digest": digest, "files": listed}))
    return digest


def gpt_bundle(
    root: Path,
    config: GPTConfig,
    *,
    chars: str = CHARS,
    serving: dict[str, Any] | None = None,
    seed: int = 3,
    spread: float = 1.0,
    release_id: str = "charlm-1",
) -> str:
    """A release of a random model; returns its digest. A `spread` of 10 makes its greedy tokens vary."""
    root.mkdir(parents=True)
    torch.manual_seed(seed)
    model = GPT(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(spread)
    save_file(model.state_dict(), root / "model.safetensors")
    tokenizer = {"type": "char", "chars": list(chars)}
    for name, value in (("config", config.to_json()), ("tokenizer", tokenizer), ("serving", serving or {})):
        (root / f"{name}.json").write_text(json.dumps(value))
    return seal(root, release_id)
