"""Bundles made from foreign models, one for each content: made once, found again by the digest of what they are made of."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from engine.serving.convert.source import Importer, Say, SourceRefused, write_json
from state.digests import MANIFEST_NAME, bundle_digest, canonical_json, file_sha256, hash_tree, text_sha256
from state.words import OperationFailed

RECIPE = 1
"""Part of every key: raise it when the same source is to give other bytes than before."""


@dataclass(frozen=True, slots=True)
class Made:
    """A bundle that can be served."""

    bundle: Path
    release_id: str
    digest: str
    was_there: bool


def bundle_of(importer: Importer, cache: Path, say: Say) -> Made:
    """The bundle of a model, from the directory `cache` or made now. Raises SourceRefused or OperationFailed.

    Two that make the same at once: the second waits for the first. What was left half made is thrown away.
    """
    key = _key(importer, say)
    name = f"{_slug(importer.name)}-{key[:12]}"
    final = cache / name
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _alone(cache / f".{name}.lock"):
            if (final / MANIFEST_NAME).is_file():
                return _made(final, was_there=True)
            aside = cache / f".{name}.new"
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            try:
                importer.write(aside, say)
                _seal(aside, importer, name, key)
                os.rename(aside, final)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise OperationFailed(
            f"the bundle {final} cannot be written: {error.strerror or error}",
            hint="make room, or name another place with XDG_CACHE_HOME",
            code="bundle_not_written",
        ) from error
    return _made(final, was_there=False)


def _key(importer: Importer, say: Say) -> str:
    """The digest of what the bundle is made of, and of how."""
    files = importer.files()
    size = 0
    for file in files:
        try:
            size += file.stat().st_size
        except OSError as error:
            raise SourceRefused(
                f"{file} cannot be read: {error.strerror}", hint="name a model that is complete and yours to read"
            ) from error
    if size > 1 << 30:
        say(f"hashing {size / 2**30:.1f} GiB")
    return text_sha256(canonical_json([RECIPE, importer.kind, [[file.name, file_sha256(file)] for file in files]]))


def _seal(folder: Path, importer: Importer, name: str, key: str) -> None:
    """Write the manifest: what a server verifies before it reads anything else."""
    files = hash_tree(folder)
    manifest = {
        "release_id": name,
        "digest": bundle_digest(files),
        "files": [asdict(file) for file in files],
        "lineage": {"source": {"kind": importer.kind, "name": importer.name, "key": key, "recipe": RECIPE}},
    }
    write_json(folder / MANIFEST_NAME, manifest)


def _made(bundle: Path, *, was_there: bool) -> Made:
    try:
        manifest = json.loads((bundle / MANIFEST_NAME).read_text(encoding="utf-8"))
        return Made(bundle, str(manifest["release_id"]), str(manifest["digest"]), was_there)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OperationFailed(
            f"{bundle} is damaged: {error}", hint=f"remove it, it is made again: rm -r {bundle}", code="bundle_damaged"
        ) from error


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold the lock: whoever dies lets go of it."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.").lower()[:48] or "model"
