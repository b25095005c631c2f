"""Giving back the pages of libraries that loading touched and serving does not. Linux; elsewhere nothing happens.

Importing torch runs through a good hundred megabytes of code, once. What of it is needed again comes back from the page
cache, one fault a page; the rest is no longer this process' memory.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

_MADV_DONTNEED = 4
_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ \S+ +(\S.*)$")


def give_back_file_pages() -> int:
    """Let go of clean pages of read-only files; returns how many bytes of mappings were asked about."""
    if sys.platform != "linux":
        return 0
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    with Path("/proc/self/smaps").open(encoding="utf-8", errors="replace") as lines:
        found = list(clean_mappings(lines))
    return sum(end - start for start, end in found if madvise(start, end - start, _MADV_DONTNEED) == 0)


def clean_mappings(smaps: Iterable[str]) -> Iterator[tuple[int, int]]:
    """From the lines of /proc/PID/smaps: mappings of files that cannot be written and of which nothing was.

    A library's table of addresses cannot be written either, once the loader has filled it in; those pages are no longer
    the file's (smaps counts them as anonymous), and letting go of them would lose what was filled in.
    """
    mapping: tuple[int, int] | None = None
    for line in smaps:
        header = _MAPPING.match(line)
        if header is not None:
            start, end, permissions, name = header.groups()
            is_file = name.startswith("/") and not name.endswith("(deleted)") and permissions in ("r-xp", "r--p")
            mapping = (int(start, 16), int(end, 16)) if is_file else None
        elif re.match(r"[0-9a-f]+-", line):
            mapping = None
        elif mapping is not None and line.startswith("Anonymous:"):
            if int(line.split()[1]) == 0:
                yield mapping
            mapping = None
