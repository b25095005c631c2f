"""What this host has left for another replica: memory, and a GPU's memory where replicas use one. All of it blocks."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

_SMI_TIMEOUT_S = 5.0
_CGROUP = Path("/sys/fs/cgroup")
RESERVE_SHARE = 0.1
"""Of the host's memory, this much is left alone: page cache, the gateway, whoever logs in to look."""


@dataclass(frozen=True, slots=True)
class Need:
    """What one replica uses, in bytes: the largest of those that were looked at."""

    memory: int
    gpu_memory: int


def room_for(pids: Sequence[int]) -> int | None:
    """How many more replicas like those of `pids` fit; None when none of them could be looked at."""
    need = need_of(pids)
    if need is None:
        return None
    fits = max(0, available_bytes()) // max(1, need.memory)
    if need.gpu_memory:
        fits = min(fits, gpu_free_bytes() // need.gpu_memory)
    return fits


def need_of(pids: Sequence[int]) -> Need | None:
    """The largest replica's memory, its children counted in."""
    on_gpu = _gpu_memory()
    needs = []
    for pid in pids:
        try:
            process = psutil.Process(pid)
            tree = [process, *process.children(recursive=True)]
            resident = sum(_resident(one) for one in tree)
        except psutil.Error:
            continue
        needs.append((resident, sum(on_gpu.get(one.pid, 0) for one in tree)))
    if not needs:
        return None
    return Need(max(m for m, _ in needs), max(g for _, g in needs))


def available_bytes() -> int:
    """Memory that may be taken: the host's or the control group's, whichever ends first, less the reserve."""
    memory = psutil.virtual_memory()
    total, available = memory.total, memory.available
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        available = min(available, limit - int((_CGROUP / "memory.current").read_text()))
        total = min(total, limit)
    except (OSError, ValueError):
        # No limit ("max"), or no control groups of this kind.
        pass
    return int(available - RESERVE_SHARE * total)


def gpu_free_bytes() -> int:
    """Memory of the GPU that has the most free, less the reserve; 0 without a GPU that answers."""
    return int(max((free for free, _ in _gpus()), default=0) * (1 - RESERVE_SHARE))


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _gpus() -> list[tuple[int, int]]:
    """Free and total bytes of each GPU."""
    return [(int(free) << 20, int(total) << 20) for free, total in _smi("--query-gpu=memory.free,memory.total")]


def _gpu_memory() -> dict[int, int]:
    """pid → bytes it uses on GPUs."""
    used: dict[int, int] = {}
    for pid, mib in _smi("--query-compute-apps=pid,used_memory"):
        if pid.isdigit() and mib.isdigit():
            used[int(pid)] = used.get(int(pid), 0) + (int(mib) << 20)
    return used


def _smi(query: str) -> list[list[str]]:
    """Rows of an nvidia-smi query; none without it, or when it does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        said = subprocess.run(
            [program, query, "--format=csv,noheader,nounits"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_SMI_TIMEOUT_S, check=True,
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return []
    return [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(said)) if len(row) == 2]
