"""Content digests: files, trees, bundles, and the canonical JSON that is hashed. Standard library only."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

MANIFEST_NAME = "release.json"
PARALLEL_FROM = 4 << 20
"""Of fewer bytes the threads would take longer to start than to hash."""


@dataclass(frozen=True, slots=True)
class FileDigest:
    """One file: its path relative to the tree, its sha256 in hex, its size in bytes."""

    path: str
    sha256: str
    size: int


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_tree(root: Path, exclude: Collection[str] = ()) -> tuple[FileDigest, ...]:
    """Every regular file below `root` in path order, but those whose relative path is in `exclude`."""
    names = []
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_file() and not path.is_symlink() and name not in exclude:
            names.append(name)
    return hash_files(root, names)


def hash_files(root: Path, names: Iterable[str]) -> tuple[FileDigest, ...]:
    """The files below `root` by their relative names, in that order; many bytes in several files are hashed on every core.

    A single file's sha256 is one chain: no second core can help. Raises OSError for a file that cannot be read.
    """
    named = [(name, root / name, (root / name).stat().st_size) for name in names]
    if len(named) < 2 or sum(size for _, _, size in named) < PARALLEL_FROM:
        return tuple(FileDigest(name, file_sha256(path), size) for name, path, size in named)
    workers = min(len(named), len(os.sched_getaffinity(0)))
    with ThreadPoolExecutor(workers, thread_name_prefix="hash") as pool:
        # The largest first, so that no core is left alone with it at the end.
        by_size = sorted(named, key=lambda one: -one[2])
        digests = dict(
            zip((name for name, _, _ in by_size), pool.map(file_sha256, (p for _, p, _ in by_size)), strict=True)
        )
    return tuple(FileDigest(name, digests[name], size) for name, _, size in named)


def canonical_json(value: object) -> str:
    """The one text of `value` that is hashed: sorted keys, no spaces, no NaN (raises ValueError)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def text_sha256(text: str) -> str:
    """The sha256 of `text` as UTF-8, in hex."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def bundle_digest(files: Iterable[FileDigest]) -> str:
    """The digest of a bundle: sha256 over the canonical list of its files, the manifest itself left out."""
    listed = sorted((f.path, f.sha256, f.size) for f in files if f.path != MANIFEST_NAME)
    return text_sha256(canonical_json([list(item) for item in listed]))
