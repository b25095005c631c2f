"""Reading a release's bundle: nothing in it is believed before its digest was compared. Imports no torch.

Only safetensors, JSON and a chat template are ever read. Small files are read once, into memory: what was hashed is what
is used. Weights are hashed as they stream by and mapped later; that they are still the hashed ones is checked then.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from engine.serving.tokenizer import CharTokenizer, Tokenizer
from state.digests import MANIFEST_NAME, FileDigest, bundle_digest, file_sha256
from state.words import OperationFailed

WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "config.json"
TOKENIZER_NAME = "tokenizer.json"
SERVING_NAME = "serving.json"
TOKENIZER_CONFIG_NAME = "tokenizer_config.json"
TEMPLATE_NAME = "chat_template.jinja"
GENERATION_NAME = "generation_config.json"
WEIGHTS_SUFFIX = ".safetensors"
INDEX_NAME = "model.safetensors.index.json"
"""Which of several files a tensor is in, for other readers; here the files themselves are asked."""
REQUIRED = (WEIGHTS_NAME, CONFIG_NAME, TOKENIZER_NAME)
"""What a bundle of the built-in pipeline holds at least. One of a large model may have its weights in several files."""
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
class WeightsFile:
    """A file of tensors as it was when it was hashed."""

    path: Path
    stamp: tuple[int, int, int]

    def refuse_if_changed(self) -> None:
        """Raise BundleRefused when the file is not the one that was hashed any more."""
        try:
            is_same = _stamp(self.path) == self.stamp
        except OSError:
            is_same = False
        if not is_same:
            raise BundleRefused(f"{self.path} changed while it was being loaded", hint=_HINT)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle."""

    release_id: str
    digest: str
    config: Mapping[str, Any]
    tokenizer: Tokenizer
    serving: Mapping[str, Any]
    weights: tuple[WeightsFile, ...]


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
    weights = sorted(name for name in listed if name.endswith(WEIGHTS_SUFFIX))
    missing = [name for name in REQUIRED if name not in listed and not (name == WEIGHTS_NAME and weights)]
    if missing:
        raise BundleRefused(f"the bundle {path} lists no {', '.join(missing)}", hint=_HINT)
    content = {name: _read_verified(path, file) for name, file in listed.items() if name not in weights}
    config = _json_object(content[CONFIG_NAME], path / CONFIG_NAME)
    return Bundle(
        release_id=manifest.release_id,
        digest=digest,
        config=config,
        tokenizer=_tokenizer(path, content, config),
        serving=_optional(path, content, SERVING_NAME),
        weights=tuple(_verified_weights(path, listed[name]) for name in weights),
    )


def _optional(path: Path, content: Mapping[str, bytes], name: str) -> dict[str, Any]:
    return _json_object(content[name], path / name) if name in content else {}


def _tokenizer(path: Path, content: Mapping[str, bytes], config: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that `tokenizer.json` is: our character vocabulary, or one of the `tokenizers` library."""
    value = _json_object(content[TOKENIZER_NAME], path / TOKENIZER_NAME)
    try:
        if not isinstance(value.get("model"), dict):
            return CharTokenizer.from_json(value)
        from engine.serving.bpe import BpeTokenizer

        template = content.get(TEMPLATE_NAME)
        generation = _optional(path, content, GENERATION_NAME)
        return BpeTokenizer.from_files(
            content[TOKENIZER_NAME].decode(),
            _optional(path, content, TOKENIZER_CONFIG_NAME),
            template=template.decode() if template is not None else None,
            eos_ids=_eos_ids(generation if "eos_token_id" in generation else config),
        )
    except ValueError as error:
        raise BundleRefused(f"{path / TOKENIZER_NAME} cannot be used: {error}", hint=_HINT) from error


def _eos_ids(value: Mapping[str, Any]) -> list[int]:
    """`eos_token_id` of a Hugging Face config: absent, a number, or several."""
    found = value.get("eos_token_id")
    listed = found if isinstance(found, list) else [found]
    return [token for token in listed if isinstance(token, int) and not isinstance(token, bool)]


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
    path = _sized(root, file)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BundleRefused(f"{path} cannot be read: {error.strerror}", hint=_HINT) from error
    _compare(path, hashlib.sha256(content).hexdigest(), file)
    return content


def _verified_weights(root: Path, file: FileDigest) -> WeightsFile:
    """A listed file of tensors, hashed without being held in memory."""
    path = _sized(root, file)
    try:
        stamp = _stamp(path)
        sha256 = file_sha256(path)
    except OSError as error:
        raise BundleRefused(f"{path} cannot be read: {error.strerror}", hint=_HINT) from error
    _compare(path, sha256, file)
    return WeightsFile(path, stamp)


def _sized(root: Path, file: FileDigest) -> Path:
    """Where a listed file is, of the right size and of the bundle's own."""
    relative = PurePosixPath(file.path)
    if relative.is_absolute() or ".." in relative.parts:
        raise BundleRefused(f"the manifest in {root} lists a file outside the bundle: {file.path}", hint=_HINT)
    path = root / relative
    if path.is_symlink():
        raise BundleRefused(f"{path} is a symbolic link; a bundle holds its own files", hint=_HINT)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise BundleRefused(f"{path} cannot be read: {error.strerror}", hint=_HINT) from error
    if size != file.size:
        raise BundleRefused(f"{path} has {size} bytes, but {file.size} were released", hint=_HINT)
    return path


def _compare(path: Path, sha256: str, file: FileDigest) -> None:
    if sha256 != file.sha256:
        raise BundleRefused(f"{path} was altered: its sha256 is not the one that was released", hint=_HINT)


def _stamp(path: Path) -> tuple[int, int, int]:
    """What changes when a file is written to or replaced."""
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _json_object(content: bytes, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except ValueError as error:
        raise BundleRefused(f"{path} is not JSON: {error}", hint=_HINT) from error
    if not isinstance(value, dict):
        raise BundleRefused(f"{path} must hold a JSON object", hint=_HINT)
    return value
