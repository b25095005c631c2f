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

_SMAPS = Path("/proc/self/smaps")
_MADV_DONTNEED = 4
_OWN = ("Anonymous:", "Swap:")
"""What smaps calls pages that were written: those in memory, and those that were put aside."""
_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ \S+ +(\S.*)$")


def give_back_file_pages() -> int:
    """Let go of clean pages of read-only files; returns how many bytes of mappings were asked about."""
    if sys.platform != "linux":
        return 0
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    try:
        with _SMAPS.open(encoding="utf-8", errors="replace") as lines:
            found = list(clean_mappings(lines))
    except OSError:
        return 0  # a kernel, or a sandbox, that does not say: nothing is known to be clean
    return sum(end - start for start, end in found if madvise(start, end - start, _MADV_DONTNEED) == 0)


def clean_mappings(smaps: Iterable[str]) -> Iterator[tuple[int, int]]:
    """From the lines of /proc/PID/smaps: mappings of files that cannot be written and of which nothing was.

    A library's table of addresses cannot be written either, once the loader has filled it in; those pages are no longer
    the file's, and letting go of them would lose what was filled in. smaps counts them as anonymous, and as swapped once
    a full machine has put them aside.
    """
    mapping: tuple[int, int] | None = None
    known: dict[str, int] = {}
    for line in smaps:
        header = _MAPPING.match(line)
        if header is not None:
            start, end, permissions, name = header.groups()
            is_file = name.startswith("/") and not name.endswith("(deleted)") and permissions in ("r-xp", "r--p")
            mapping, known = (int(start, 16), int(end, 16)) if is_file else None, {}
        elif re.match(r"[0-9a-f]+-", line):
            mapping = None
        elif mapping is not None and line.startswith(_OWN):
            known[line.partition(":")[0]] = int(line.split()[1])
            if len(known) == len(_OWN):
                if not any(known.values()):
                    yield mapping
                mapping = None
