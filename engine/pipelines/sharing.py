"""Equal files of kept outputs lie on the disk once: hard links to one file, named by its sha256.

A file is linked only after it was read and found to be what its name says. Whoever writes into kept outputs in place changes every
entry that shares the bytes; each notices when it is next used, for its digests are checked on every use.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from state.digests import FileDigest, file_sha256

SAME = ".same"
SMALLEST = 64 << 10
"""Smaller files are not worth a name each."""


def share(out: Path, files: Iterable[FileDigest], same: Path) -> int:
    """Replace files below `out` by links to equal ones kept in `same`; returns the bytes saved. A file system without links saves none."""
    saved = 0
    for file in files:
        if file.size >= SMALLEST:
            with contextlib.suppress(OSError):
                saved += file.size * _share(out / file.path, same / file.sha256, file)
    return saved


def _share(path: Path, kept: Path, file: FileDigest) -> bool:
    """Whether `path` is a link now to what was kept; else it is what is kept from now on."""
    if kept.exists() and (kept.stat().st_mode != path.stat().st_mode or file_sha256(kept) != file.sha256):
        kept.unlink()
    if not kept.exists():
        kept.parent.mkdir(exist_ok=True)
        with contextlib.suppress(FileExistsError):  # another stage keeps the same bytes at this moment
            os.link(path, kept)
        return False
    if kept.samefile(path):
        return False  # to rename one name of a file onto another does nothing, and would leave both
    link = path.with_name(f"{path.name}.same")
    os.link(kept, link)
    try:
        os.replace(link, path)
    except OSError:
        link.unlink()
        raise
    return True


def forget_unshared(same: Path) -> int:
    """Drop the names of files that no entry has any more; returns how many."""
    gone = 0
    for path in same.iterdir() if same.is_dir() else ():
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_nlink == 1:
                path.unlink()
                gone += 1
    return gone
