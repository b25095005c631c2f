"""Bundles of known-good releases kept by digest beside the backups, and put back from there. Standard library only.

A bundle that is on the same file system is kept as hard links, which costs no room and outlives the release's directory;
elsewhere it is copied. Its files are hashed before it is kept.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from state.backup import read_only
from state.digests import MANIFEST_NAME, bundle_digest, hash_tree

_KNOWN_GOOD = """
SELECT id, digest, bundle_path FROM release
WHERE id IN (SELECT release_id FROM track WHERE weight > 0)
   OR (lifecycle NOT IN ('Rejected', 'Archived') AND id IN (SELECT to_release FROM rollout WHERE state = 'completed'))
ORDER BY id
"""


@dataclass(frozen=True, slots=True)
class KnownGood:
    """A release that serves, or completed a rollout and was not rejected since."""

    release: str
    digest: str
    bundle: str
    """Where it is served from."""


def is_digest(text: str) -> bool:
    """Whether `text` is a sha256 in hex, and so the name of a bundle's directory: no path can be hidden in it."""
    return re.fullmatch(r"[0-9a-f]{64}", text) is not None


def known_good(store: Path) -> tuple[KnownGood, ...]:
    """The releases that the store at `store` would go back to. Raises sqlite3.DatabaseError."""
    with closing(read_only(store)) as connection:
        return tuple(KnownGood(*row) for row in connection.execute(_KNOWN_GOOD))


def trouble(bundle: Path, digest: str) -> str:
    """Why the directory `bundle` is not the bundle of this digest; "" when it is. Reads all of it."""
    if not (bundle / MANIFEST_NAME).is_file():
        return f"{bundle} is not there"
    try:
        listed = {file["path"] for file in json.loads((bundle / MANIFEST_NAME).read_text(encoding="utf-8"))["files"]}
        found = bundle_digest(file for file in hash_tree(bundle) if file.path in listed)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{bundle} cannot be read: {error}"
    return "" if found == digest else f"{bundle} was altered: its digest is {found[:12]}, not {digest[:12]}"


def keep(directory: Path, release: KnownGood) -> str:
    """Keep the release's bundle in `directory` by its digest, unless it is there. Returns why it could not be, or ""."""
    if not is_digest(release.digest):
        return f"{release.release}: {release.digest!r} is no sha256"
    place = directory / release.digest
    if place.is_dir():
        return ""
    wrong = trouble(Path(release.bundle), release.digest)
    if wrong:
        return f"{release.release}: {wrong}"
    try:
        transfer(Path(release.bundle), place)
    except OSError as error:
        return f"{release.release}: {error}"
    return ""


def put_back(directory: Path, release: KnownGood) -> str:
    """Have the release's bundle where it is served from. Returns what was done, or why it cannot be; "" when it is there.

    One that was altered is moved aside, not overwritten.
    """
    if not is_digest(release.digest):
        return f"{release.release}: {release.digest!r} is no sha256"
    wanted = Path(release.bundle)
    wrong = trouble(wanted, release.digest)
    if not wrong:
        return ""
    kept = directory / release.digest
    missing = trouble(kept, release.digest)
    if missing:
        return f"{release.release}: {wrong}, and no backup has it ({missing})"
    if wanted.exists():
        os.replace(wanted, wanted.with_name(f"{wanted.name}.altered-{os.getpid()}"))
    transfer(kept, wanted)
    return f"{release.release}: its bundle was put back from {kept}"


def transfer(source: Path, target: Path) -> None:
    """Have the tree `source` at `target` too, whole or not at all: linked where that can be, else copied. Raises OSError.

    A symbolic link stays one: no bundle lists what it leads to, and that may be the whole disk.
    """
    aside = target.with_name(f".{target.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        shutil.copytree(source, aside, symlinks=True, copy_function=_link_or_copy)
        os.replace(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _link_or_copy(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
