"""Reading a release's bundle: nothing in it is believed before its digest was compared. Imports no torch.

Only safetensors and JSON are ever read. What was hashed is what is used: each file is read once, into memory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from engine.serving.tokenizer import CharTokenizer
from state.digests import MANIFEST_NAME, FileDigest, bundle_digest
from state.words import OperationFailed

WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "config.json"
TOKENIZER_NAME = "tokenizer.json"
SERVING_NAME = "serving.json"
REQUIRED = (WEIGHTS_NAME, CONFIG_NAME, TOKENIZER_NAME)
_HINT = "take the release out of service, and restore its bundle from the registry or import it again"


class BundleRefused(OperationFailed):
    """A bundle is missing, incomplete, altered, or not one that this model server can run."""

    code = "bundle_refused"


class _ManifestFile(BaseModel):
    path: str = Field(min_length=1)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    size: int = Field(ge=0)


class _Manifest(BaseModel):
    """The part of `release.json` that loading needs; lineage and the rest are other readers' business."""

    release_id: str = ""
    digest: str
    files: list[_ManifestFile]


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle, in memory."""

    release_id: str
    digest: str
    config: Mapping[str, Any]
    tokenizer: CharTokenizer
    serving: Mapping[str, Any]
    weights: bytes


def read_bundle(path: Path, expected_digest: str | None) -> Bundle:
    """Read and verify the bundle in the directory `path`.

    Every file that `release.json` lists must be there with its size and sha256, and the digest over the list must
    be the manifest's and, unless None or "", `expected_digest`. Raises BundleRefused.
    """
    manifest = _read_manifest(path)
    listed = {file.path: FileDigest(file.path, file.sha256, file.size) for file in manifest.files}
    digest = bundle_digest(listed.values())
    if digest != manifest.digest or len(listed) != len(manifest.files):
        raise BundleRefused(f"{path / MANIFEST_NAME} does not match its own digest", hint=_HINT)
    if expected_digest and digest != expected_digest:
        raise BundleRefused(
            f"the bundle {path} has digest {digest[:12]}, but {expected_digest[:12]} was to be served", hint=_HINT
        )
    missing = [name for name in REQUIRED if name not in listed]
    if missing:
        raise BundleRefused(f"the bundle {path} lists no {', '.join(missing)}", hint=_HINT)
    content = {name: _read_verified(path, file) for name, file in listed.items()}
    try:
        tokenizer = CharTokenizer.from_json(_json_object(content[TOKENIZER_NAME], path / TOKENIZER_NAME))
    except ValueError as error:
        raise BundleRefused(f"{path / TOKENIZER_NAME} cannot be used: {error}", hint=_HINT) from error
    serving = content.get(SERVING_NAME)
    return Bundle(
        release_id=manifest.release_id,
        digest=digest,
        config=_json_object(content[CONFIG_NAME], path / CONFIG_NAME),
        tokenizer=tokenizer,
        serving=_json_object(serving, path / SERVING_NAME) if serving is not None else {},
        weights=content[WEIGHTS_NAME],
    )


def _read_manifest(path: Path) -> _Manifest:
    file = path / MANIFEST_NAME
    try:
        return _Manifest.model_validate(_json_object(file.read_bytes(), file))
    except OSError as error:
        raise BundleRefused(f"{file} cannot be read: {error.strerror}", hint=_HINT) from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BundleRefused(f"{file} is not a release manifest: {where}: {first['msg']}", hint=_HINT) from error


def _read_verified(root: Path, file: FileDigest) -> bytes:
    """The bytes of a listed file, proven to be those that were released."""
    relative = PurePosixPath(file.path)
    if relative.is_absolute() or ".." in relative.parts:
        raise BundleRefused(f"the manifest in {root} lists a file outside the bundle: {file.path}", hint=_HINT)
    path = root / relative
    if path.is_symlink():
        raise BundleRefused(f"{path} is a symbolic link; a bundle holds its own files", hint=_HINT)
    try:
        size = path.stat().st_size
        if size != file.size:
            raise BundleRefused(f"{path} has {size} bytes, but {file.size} were released", hint=_HINT)
        content = path.read_bytes()
    except OSError as error:
        raise BundleRefused(f"{path} cannot be read: {error.strerror}", hint=_HINT) from error
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise BundleRefused(f"{path} was altered: its sha256 is not the one that was released", hint=_HINT)
    return content


def _json_object(content: bytes, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except ValueError as error:
        raise BundleRefused(f"{path} is not JSON: {error}", hint=_HINT) from error
    if not isinstance(value, dict):
        raise BundleRefused(f"{path} must hold a JSON object", hint=_HINT)
    return value
