"""What a number depends on besides code and data: interpreter, libraries, processor. Recorded with every training."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

DEPENDENCIES = ("torch", "numpy", "safetensors", "mlflow", "airboss")
_FAST_BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Flags of processors that compute in bfloat16: x86 with AVX-512 BF16 or AMX, Arm with BF16."""


def dependency_versions() -> dict[str, str]:
    """Versions of what trains, saves and registers models; "absent" for what is not installed."""
    found = {}
    for name in DEPENDENCIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def environment_facts() -> dict[str, str]:
    """Interpreter, system, processor and dependency versions."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "processor": _cpu_field("model name") or platform.processor() or "unknown",
        "cores": str(usable_cores()),
        **dependency_versions(),
    }


def usable_cores() -> int:
    """Cores this process may run on: what a container or `taskset` leaves it."""
    return len(os.sched_getaffinity(0))


def has_fast_bfloat16() -> bool:
    """Whether the processor computes in bfloat16 itself, so that it is faster than float32 and not slower."""
    return bool(_FAST_BFLOAT16 & set((_cpu_field("flags") or _cpu_field("Features")).split()))


def _cpu_field(name: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == name), "")
