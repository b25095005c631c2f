"""Weights in pages of 2 MiB. Linux; elsewhere, or where the kernel will not, nothing happens.

Decoding reads every weight once a token, and with 4 KiB pages much of that time goes into finding the pages, most of all
in a virtual machine: on two virtual cores of a Xeon the same products took a quarter less time, and plain reading of
memory was half as fast again. The kernel offers the collapse of what is there since 6.1 (madvise(2), MADV_COLLAPSE).
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

_HUGE = 2 << 20
_SMALLEST = 4 << 20
"""Smaller mappings hold no weights worth the call."""
WORTH_COLLAPSING = 16 << 20
"""Bytes of weights from which it pays: the processor finds so many 4 KiB pages by itself, and where memory is fragmented
the kernel takes 25 ms for each huge page of the process: 2 s of a start that loads a model of 70 kB in 20 ms."""
_PAGE = 4096
_FULL = 0.9
_MADV_HUGEPAGE, _MADV_COLLAPSE = 14, 25


def collapse() -> int:
    """Put what this process has in large anonymous mappings into huge pages; returns how many bytes took to it."""
    if sys.platform != "linux":
        return 0
    collapsed = 0
    for start, end in _mappings():
        _madvise(start, end - start, _MADV_HUGEPAGE)
        for page in range(start, end, _HUGE):
            # One at a time: where the kernel has none to give, the next may still do.
            if _resident(page) >= _FULL:
                collapsed += _HUGE * _madvise(page, _HUGE, _MADV_COLLAPSE)
    return collapsed


def _resident(start: int) -> float:
    """The share of a huge page's 4 KiB pages that are there: collapsing fills the holes, with memory nobody asked for."""
    mincore = ctypes.CDLL(None).mincore
    mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)
    there = ctypes.create_string_buffer(_HUGE // _PAGE)
    if mincore(start, _HUGE, there) != 0:
        return 0.0
    return sum(byte & 1 for byte in there.raw) / len(there.raw)


def prefer(tensor: Tensor) -> None:
    """Have the tensor's memory, where it is touched from now on, in huge pages."""
    start = -(-tensor.data_ptr() // _HUGE) * _HUGE
    length = (tensor.data_ptr() + tensor.nbytes - start) // _HUGE * _HUGE
    if sys.platform == "linux" and tensor.device.type == "cpu" and length > 0:
        _madvise(start, length, _MADV_HUGEPAGE)


def _mappings() -> Iterator[tuple[int, int]]:
    """Large writable mappings that no file stands behind, from the first to the last whole huge page."""
    for line in Path("/proc/self/maps").read_text(encoding="ascii", errors="replace").splitlines():
        fields = line.split()
        name = fields[5] if len(fields) > 5 else ""
        start, end = (int(part, 16) for part in fields[0].split("-"))
        if fields[1].startswith("rw-p") and name in ("", "[heap]") and end - start >= _SMALLEST:
            yield -(-start // _HUGE) * _HUGE, end // _HUGE * _HUGE


def _madvise(start: int, length: int, advice: int) -> bool:
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return length > 0 and madvise(start, length, advice) == 0
