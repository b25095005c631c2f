"""The files of a model, as a training stage writes them and later stages read them: safetensors and JSON, no pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from engine.serving.bundle import CONFIG_NAME, TOKENIZER_NAME, WEIGHTS_NAME
from engine.serving.models.gpt import GPT, GPTConfig
from engine.serving.tokenizer import CharTokenizer
from state.words import OperationFailed


def save_weights(model: GPT, path: Path) -> None:
    """Write the weights in float32 aside and rename, so that a reader sees all of them or none."""
    aside = path.with_name(f".{path.name}")
    tensors = {name: value.detach().float().contiguous().cpu() for name, value in model.state_dict().items()}
    save_file(tensors, aside)
    os.replace(aside, path)


def save_model(model: GPT, tokenizer: CharTokenizer, folder: Path) -> None:
    """Write model.safetensors, config.json and tokenizer.json into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(model, folder / WEIGHTS_NAME)
    _write(folder / CONFIG_NAME, model.config.to_json())
    _write(folder / TOKENIZER_NAME, tokenizer.to_json())


def load_model(folder: Path, device: torch.device) -> tuple[GPT, CharTokenizer]:
    """The model in `folder`, ready to score. Raises OperationFailed when the files are missing or do not fit."""
    try:
        config = GPTConfig.from_json(_read(folder / CONFIG_NAME))
        tokenizer = CharTokenizer.from_json(_read(folder / TOKENIZER_NAME))
        model = GPT(config)  # not on the meta device: its random initialisation imports torch's compiler, 1.5 s
        model.load_state_dict(load_file(folder / WEIGHTS_NAME), strict=True, assign=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        detail = " ".join(str(error).split())
        raise OperationFailed(f"the model in {folder} cannot be loaded: {detail}", hint="train it again") from error
    return model.to(device).eval().requires_grad_(False), tokenizer


def _write(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False) + "\n", encoding="utf-8")


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
