"""A Hugging Face model directory: config, safetensors (one file or several) and tokenizer.json, taken as they are."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from engine.serving.bundle import (
    CONFIG_NAME,
    GENERATION_NAME,
    INDEX_NAME,
    SERVING_NAME,
    TEMPLATE_NAME,
    TOKENIZER_CONFIG_NAME,
    TOKENIZER_NAME,
    WEIGHTS_NAME,
)
from engine.serving.convert.source import Say, SourceRefused, read_json, write_json
from engine.serving.models.llama_config import LlamaConfig

_OPTIONAL = (GENERATION_NAME, TOKENIZER_CONFIG_NAME, TEMPLATE_NAME, INDEX_NAME)
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "consolidated.00.pth")


class HuggingFace:
    """The model in a directory as `save_pretrained` and the hub have it."""

    kind = "huggingface"

    def __init__(self, path: Path) -> None:
        self._root = path
        self.name = path.resolve().name

    def files(self) -> list[Path]:
        """See Importer."""
        needed = [CONFIG_NAME, TOKENIZER_NAME]
        if not (self._root / TOKENIZER_NAME).is_file():
            raise SourceRefused(
                f"{self._root} has no {TOKENIZER_NAME}",
                hint="write one with transformers: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)",
            )
        optional = [name for name in _OPTIONAL if (self._root / name).is_file()]
        return [self._root / name for name in (*needed, *optional, *self._weights())]

    def write(self, into: Path, say: Say) -> None:
        """See Importer."""
        config = read_json(self._root / CONFIG_NAME)
        try:
            LlamaConfig.from_json(config)
        except ValueError as error:
            raise SourceRefused(
                f"{self._root / CONFIG_NAME}: {error}", hint="serve it with vLLM, or another model here"
            ) from error
        files = self.files()
        say(f"taking over {len(files)} files of {self.name}")
        for file in files:
            _take(file.resolve(), into / file.name)
        stored = config.get("dtype", config.get("torch_dtype"))
        write_json(into / SERVING_NAME, {"dtype": stored} if stored in ("bfloat16", "float16") else {})

    def _weights(self) -> list[str]:
        """Names of the files of tensors."""
        if (self._root / WEIGHTS_NAME).is_file():
            return [WEIGHTS_NAME]
        if (self._root / INDEX_NAME).is_file():
            places = read_json(self._root / INDEX_NAME).get("weight_map")
            names = sorted({str(name) for name in places.values()}) if isinstance(places, dict) else []
            odd = [name for name in names if Path(name).name != name or not name.endswith(".safetensors")]
            if not names or odd:
                raise SourceRefused(
                    f"{self._root / INDEX_NAME} names no safetensors files of its own directory",
                    hint="download the model again",
                )
            missing = [name for name in names if not (self._root / name).is_file()]
            if missing:
                raise SourceRefused(
                    f"{self._root} lacks {missing[0]}, one of {len(names)} files of weights",
                    hint="download it; the model is incomplete",
                )
            return names
        pickled = next((name for name in _PICKLES if (self._root / name).is_file()), None)
        if pickled:
            raise SourceRefused(
                f"{self._root / pickled} is a pickle, which could run code, and is not read",
                hint="convert it where you trust it: AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(DIR)",
            )
        raise SourceRefused(f"{self._root} has no {WEIGHTS_NAME}", hint="name a complete model directory")


def _take(file: Path, target: Path) -> None:
    """The file itself if the disk is the same, else a copy. If it is changed later its digest tells."""
    try:
        os.link(file, target)
    except OSError:
        # Another disk, or one without hard links.
        shutil.copyfile(file, target)
