"""A version of a registry as a bundle: its fetched files put into the shape that the converter takes, and converted. Blocks."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from adapters.catalogue import CatalogueDetails, refuse
from engine.serving.bundle import CONFIG_NAME, TOKENIZER_NAME
from state.digests import MANIFEST_NAME, FileDigest, bundle_digest
from state.words import OperationFailed, TimedOut, error_from_dict

CONVERT_S = 1800.0
CONVERTER = "engine.serving.convert"


def bundle_of(fetched: Path, known: CatalogueDetails, cache: Path) -> Path:
    """The bundle's directory, below `cache` or `fetched` itself. Raises OperationFailed for what cannot be served."""
    if known.digest:
        return _own(fetched, known)
    source = _source(fetched, known)
    words = [sys.executable, "-P", "-m", CONVERTER, str(source), "--cache", str(cache)]
    try:
        ended = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=CONVERT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise TimedOut(
            f"converting {source.name} took more than {CONVERT_S:.0f} s", hint="import it where the disk is faster"
        ) from error
    try:
        said = json.loads(ended.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        last = ended.stderr.decode(errors="replace").strip()[-300:]
        raise OperationFailed(f"the converter ended with {ended.returncode}: {last}", code="converter_died",
                              hint="-9 means that it was killed, perhaps for want of memory") from None  # fmt: skip
    if "error" in said:
        raise error_from_dict(said["error"])
    return Path(said["bundle"])


def _own(fetched: Path, known: CatalogueDetails) -> Path:
    """What Airboss registered is a bundle already, but for its manifest; its bytes must be those it was verified with."""
    files = [FileDigest(file.path, file.sha256, file.size) for file in known.files]
    digest = bundle_digest(files)
    if digest != known.digest:
        raise OperationFailed(
            f"{known.version.model}/{known.version.version} has digest {digest[:12]}, but {known.digest[:12]} was registered",
            hint="its files changed in the registry's store; do not serve it", code="artifact_mismatch",
        )  # fmt: skip
    name = f"{known.version.model}-{known.version.version}"
    manifest = {
        "release_id": name,
        "digest": digest,
        "files": [asdict(file) for file in files if file.path != MANIFEST_NAME],
    }
    (fetched / MANIFEST_NAME).write_text(json.dumps(manifest), encoding="utf-8")
    return fetched


def _source(fetched: Path, known: CatalogueDetails) -> Path:
    """The GGUF file, or the one directory with config and safetensors, its tokenizer put beside them.

    (MLflow's transformers flavour keeps the model in `model/` and its tokenizer in `components/tokenizer/`.)
    """
    single = sorted(fetched.rglob("*.gguf"))
    if len(single) == 1:
        return single[0]
    places = sorted({file.parent for file in fetched.rglob("*.safetensors") if (file.parent / CONFIG_NAME).is_file()})
    if len(single) > 1 or len(places) != 1:
        has = f"{len(single)} GGUF files" if single else f"{len(places)} directories with {CONFIG_NAME} and safetensors"
        raise refuse(known.version.model, known.version.version, f"it holds {has}; one model is taken")
    root = places[0]
    if not (root / TOKENIZER_NAME).is_file():
        for kept in sorted(fetched.rglob(TOKENIZER_NAME))[:1]:
            for file in kept.parent.iterdir():
                if file.is_file() and not (root / file.name).exists():
                    shutil.copyfile(file, root / file.name)
    named = fetched / f"{known.version.model}-{known.version.version}"
    if root != fetched and not named.exists():
        root = root.rename(named)
    return root
