"""One export: load the release, write the format, prove it, and only then put it where it was asked for."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from engine.serving.bundle import read_bundle
from engine.serving.export import formats, tensorrt
from engine.serving.export.check import Comparison, compare
from engine.serving.export.explain import readme
from engine.serving.export.graph import whole_sequence
from engine.serving.export.needs import Format, demand, trtexec
from engine.serving.loader import load_model
from engine.serving.settings import ServingSettings
from state.digests import hash_tree
from state.words import UsageError

MANIFEST_NAME = "export.json"
README_NAME = "README.md"
_CARRIED = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json", "generation_config.json")


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be exported, and where to. `digest` "" takes the bundle by its own word."""

    bundle: Path
    digest: str
    format: Format
    out: Path
    threads: int = 1


def export(wish: Wish) -> dict[str, Any]:
    """Write the export; returns its manifest. Nothing is at `out` unless everything was right.

    Raises UsageError (not installed, `out` is taken), BundleRefused, GateRefused (it does not compute what the model does).
    """
    demand(wish.format)
    refuse_taken(wish.out)
    torch.set_num_threads(wish.threads)
    bundle = read_bundle(wish.bundle, wish.digest or None)
    # In float32 on the CPU, whatever it is served with: the exact weights, for the other program to round as it likes.
    loaded = load_model(bundle, ServingSettings(), torch.device("cpu"))
    context, vocab_size = _sizes(loaded.model)
    graph = whole_sequence(loaded.model)
    wish.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{wish.out.name}.", dir=wish.out.parent) as scratch:
        staging = Path(scratch) / "export"
        staging.mkdir(mode=0o755)
        path, run = _written(graph, wish, staging, context)
        found = compare(formats.torch_logits(graph), run(), loaded.tokenizer, vocab_size=vocab_size, context=context)
        if wish.format == "tensorrt":
            tensorrt.build(trtexec(), path, context)
        for name in _CARRIED:
            if (wish.bundle / name).is_file():
                shutil.copyfile(wish.bundle / name, staging / name)
        manifest = _manifest(wish, bundle.release_id, bundle.digest, context, vocab_size, found)
        (staging / README_NAME).write_text(readme(manifest), encoding="utf-8")
        manifest["files"] = [asdict(file) for file in hash_tree(staging)]
        (staging / MANIFEST_NAME).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        refuse_taken(wish.out)
        os.replace(staging, wish.out)
    return manifest


def refuse_taken(out: Path) -> None:
    """Raise UsageError when `out` is something already; an empty directory will do."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UsageError(f"{out} is there already", hint="name a directory that does not exist", code="out_taken")


def _written(
    graph: torch.nn.Module, wish: Wish, staging: Path, context: int
) -> tuple[Path, Callable[[], formats.Logits]]:
    """The file, and what runs it."""
    if wish.format == "torchscript":
        path = formats.write_torchscript(graph, staging)
        return path, lambda: formats.torchscript_logits(path)
    path = formats.write_onnx(graph, staging, context)
    return path, lambda: formats.onnx_logits(path, wish.threads)


def _sizes(model: Any) -> tuple[int, int]:
    """Context and vocabulary. Raises UsageError for a model that has no length to vary."""
    shape = getattr(model, "shape", None)
    context, vocab_size = (
        (shape.context, shape.vocab_size) if shape is not None else (model.config.block_size, model.config.vocab_size)
    )
    if context < 3:
        raise UsageError(f"a model with a context of {context} tokens cannot be exported", code="context")
    return int(context), int(vocab_size)


def _manifest(
    wish: Wish, release_id: str, digest: str, context: int, vocab_size: int, found: Comparison
) -> dict[str, Any]:
    return {
        "format": wish.format,
        "release_id": release_id,
        "digest": digest,
        "dtype": "float32",
        "input": {"name": "tokens", "dtype": "int64", "shape": ["batch", "length"], "max_length": context},
        "output": {"name": "logits", "dtype": "float32", "shape": ["batch", "length", vocab_size]},
        "torch": torch.__version__,
        "checked": {**asdict(found), "tolerance": found.tolerance, "engine_checked": wish.format != "tensorrt"},
    }
