"""A release whose files another program loads: every one is hashed before that program sees it."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

from engine.serving.bundle import SERVING_NAME, BundleRefused
from state.digests import MANIFEST_NAME, FileDigest, bundle_digest, file_sha256

_HINT = "take the release out of service, and restore its bundle from the registry or import it again"


def serving_of(root: Path) -> dict[str, Any]:
    """What the release wants of its server, `{}` when it says nothing. Raises BundleRefused."""
    path = root / SERVING_NAME
    try:
        value = json.loads(path.read_text(encoding="utf-8")) if root.is_dir() and path.exists() else {}
    except (OSError, ValueError) as error:
        raise BundleRefused(f"{path} cannot be read: {error}", hint=_HINT) from error
    if not isinstance(value, dict):
        raise BundleRefused(f"{path} must hold a JSON object", hint=_HINT)
    return value


def verify_release(root: Path, digest: str) -> None:
    """Every file that the manifest lists is there with its sha256, and the digest is the one meant. Blocks.

    With "" as `digest` there is no release, only what somebody served by hand. Raises BundleRefused.
    """
    if not digest:
        return
    manifest = root / MANIFEST_NAME
    try:
        body = json.loads(manifest.read_text(encoding="utf-8"))
        listed = [FileDigest(str(f["path"]), str(f["sha256"]), int(f["size"])) for f in body["files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleRefused(f"{manifest} cannot be read as a release manifest: {error}", hint=_HINT) from error
    if bundle_digest(listed) != digest:
        raise BundleRefused(
            f"the bundle {root} lists files of digest {bundle_digest(listed)[:12]}, but {digest[:12]} was to be served",
            hint=_HINT,
        )
    for file in listed:
        relative = PurePosixPath(file.path)
        path = root / relative
        if relative.is_absolute() or ".." in relative.parts or path.is_symlink():
            raise BundleRefused(f"{path} is not a file of the bundle's own", hint=_HINT)
        try:
            is_same = path.stat().st_size == file.size and file_sha256(path) == file.sha256
        except OSError as error:
            raise BundleRefused(f"{path} cannot be read: {error.strerror}", hint=_HINT) from error
        if not is_same:
            raise BundleRefused(f"{path} was altered: it is not the one that was released", hint=_HINT)
