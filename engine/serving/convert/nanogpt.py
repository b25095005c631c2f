"""nanoGPT: `ckpt.pt` and the `meta.pkl` of its data set, or a `tokenizer.json` beside it.

The checkpoint is read with torch's `weights_only`, which builds tensors and plain values and refuses everything else.
"""

from __future__ import annotations

import pickle
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from engine.serving.bundle import CONFIG_NAME, SERVING_NAME, TOKENIZER_NAME, WEIGHTS_NAME
from engine.serving.convert.meta_pickle import read_characters
from engine.serving.convert.source import Say, SourceRefused, write_json
from engine.serving.models.gpt import GPT, GPTConfig
from engine.serving.tokenizer import CharTokenizer

CHECKPOINT = "ckpt.pt"
META = "meta.pkl"
_NAMES = (
    (re.compile(r"transformer\.wte\.weight"), "token_embedding.weight"),
    (re.compile(r"transformer\.wpe\.weight"), "position_embedding.weight"),
    (re.compile(r"transformer\.ln_f\.(\w+)"), r"norm.\1"),
    (re.compile(r"transformer\.h\.(\d+)\.ln_([12])\.(\w+)"), r"blocks.\1.norm_\2.\3"),
    (re.compile(r"transformer\.h\.(\d+)\.attn\.c_attn\.(\w+)"), r"blocks.\1.attention.qkv.\2"),
    (re.compile(r"transformer\.h\.(\d+)\.attn\.c_proj\.(\w+)"), r"blocks.\1.attention.proj.\2"),
    (re.compile(r"transformer\.h\.(\d+)\.mlp\.c_fc\.(\w+)"), r"blocks.\1.up.\2"),
    (re.compile(r"transformer\.h\.(\d+)\.mlp\.c_proj\.(\w+)"), r"blocks.\1.down.\2"),
)
_MASK = re.compile(r"transformer\.h\.\d+\.attn\.bias")
"""The causal mask that older nanoGPT kept among its weights."""


class NanoGPT:
    """A nanoGPT checkpoint: `path` is its out directory or the `ckpt.pt` itself."""

    kind = "nanogpt"

    def __init__(self, path: Path, meta: Path | None = None) -> None:
        self.checkpoint = path / CHECKPOINT if path.is_dir() else path
        self._meta = meta
        folder = self.checkpoint.resolve().parent
        self.name = folder.name if self.checkpoint.name == CHECKPOINT else self.checkpoint.stem

    def files(self) -> list[Path]:
        """See Importer."""
        return [self.checkpoint, self._vocabulary()]

    def write(self, into: Path, say: Say) -> None:
        """See Importer."""
        say(f"reading {self.checkpoint}")
        saved = _read_checkpoint(self.checkpoint)
        config, weights = _model_of(self.checkpoint, saved)
        vocabulary = self._vocabulary()
        if vocabulary.name == TOKENIZER_NAME:
            shutil.copyfile(vocabulary, into / TOKENIZER_NAME)
        else:
            tokenizer = CharTokenizer(read_characters(vocabulary))
            if tokenizer.vocab_size != config.vocab_size:
                raise SourceRefused(
                    f"{vocabulary} has {tokenizer.vocab_size} characters, but the model in {self.checkpoint} knows "
                    f"{config.vocab_size} tokens",
                    hint="name the meta.pkl of the data set that it was trained on with --meta",
                )
            write_json(into / TOKENIZER_NAME, tokenizer.to_json())
        save_file(weights, into / WEIGHTS_NAME, metadata={"format": "pt"})
        write_json(into / CONFIG_NAME, config.to_json())
        write_json(into / SERVING_NAME, {})

    def _vocabulary(self) -> Path:
        """The vocabulary's file: the named one, one beside the checkpoint, or where nanoGPT's own sample.py looks."""
        if self._meta is not None:
            return self._meta
        folder = self.checkpoint.resolve().parent
        beside = [folder / META, folder / TOKENIZER_NAME]
        in_data = sorted((folder.parent / "data").glob(f"*/{META}"))
        found = [path for path in beside if path.is_file()] or in_data
        if len(found) == 1 or (found and found[0].parent == folder):
            return found[0]
        if in_data:
            raise SourceRefused(
                f"{folder.parent / 'data'} has several data sets; which one was {self.checkpoint} trained on?",
                hint=f"name it: --meta {in_data[0]}",
            )
        raise SourceRefused(
            f"{self.checkpoint} holds no vocabulary, and there is none beside it",
            hint=f"name its data set's {META} with --meta, or put GPT-2's {TOKENIZER_NAME} beside the checkpoint",
        )


def _read_checkpoint(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise SourceRefused(f"there is no {path}", hint="name nanoGPT's out directory")
    try:
        # Mapped, not read: the optimizer's state is twice the weights and is not looked at.
        saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        what = f"it asks for {wanted.group(1)}" if wanted else " ".join(str(error).split())[:200]
        raise SourceRefused(
            f"{path} holds more than tensors and plain values, and is not unpickled: {what}",
            hint="save it again with plain values only: torch.save({'model': ..., 'model_args': ...})",
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        detail = " ".join(str(error).split())[:200]
        raise SourceRefused(f"{path} is no whole torch checkpoint: {detail}", hint="copy it again") from error
    if not isinstance(saved, dict) or not isinstance(saved.get("model"), dict):
        raise SourceRefused(f"{path} is no nanoGPT checkpoint: it has no 'model'", hint="name nanoGPT's ckpt.pt")
    if not isinstance(saved.get("model_args"), dict):
        raise SourceRefused(f"{path} is no nanoGPT checkpoint: it has no 'model_args'", hint="name nanoGPT's ckpt.pt")
    return saved


def _model_of(path: Path, saved: Mapping[str, Any]) -> tuple[GPTConfig, dict[str, Tensor]]:
    """Its shape and its weights under our names, float32, each in memory of its own."""
    weights, unknown, head = {}, [], None
    for compiled_name, tensor in saved["model"].items():
        # torch.compile wraps the model, and nanoGPT saves the wrapper's names.
        name = str(compiled_name).removeprefix("_orig_mod.")
        if not isinstance(tensor, Tensor):
            raise SourceRefused(f"{path} holds no tensor under {name[:80]}", hint="copy it again")
        if name == "lm_head.weight":
            head = tensor
        elif ours := next((p.sub(new, name) for p, new in _NAMES if p.fullmatch(name)), None):
            weights[ours] = tensor.float().clone()
        elif not _MASK.fullmatch(name):
            unknown.append(name)
    if unknown:
        raise SourceRefused(f"{path} has weights that nanoGPT's model has not: {', '.join(unknown[:3])}", hint=_OTHER)
    args = saved["model_args"]
    try:
        config = GPTConfig(
            **{name: args[name] for name in ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")},
            bias="norm.bias" in weights,
        )
    except (KeyError, ValueError) as error:
        raise SourceRefused(f"{path}: its model_args are not nanoGPT's: {error}", hint=_OTHER) from error
    if config.n_layer > len(weights) or _shape(weights, "token_embedding.weight") != (config.vocab_size, config.n_embd):
        # Before a model of this size is made to compare with: its numbers may be anything.
        raise SourceRefused(f"{path}: its weights are not what its model_args say", hint=_OTHER)
    expected = {name: tensor.shape for name, tensor in GPT(config).state_dict().items()}
    odd = [name for name in sorted(set(expected) | set(weights)) if _shape(weights, name) != expected.get(name)]
    if odd:
        raise SourceRefused(f"{path}: the weight {odd[0]} is not what its model_args say", hint=_OTHER)
    if head is not None and not torch.equal(head.float(), weights["token_embedding.weight"]):
        raise SourceRefused(f"{path} has a head apart from its token embedding, which nanoGPT ties", hint=_OTHER)
    return config, weights


def _shape(weights: Mapping[str, Tensor], name: str) -> torch.Size | None:
    return weights[name].shape if name in weights else None


_OTHER = "only nanoGPT's own GPT can be imported from a ckpt.pt; other models as a Hugging Face directory"
