"""Elapsed time that a jump of the wall clock cannot shorten or stretch (I9)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Moment:
    """An instant: Unix seconds, and the boot's id with its monotonic seconds."""

    utc: float
    boot: str
    mono: float


def boot_id() -> str:
    """The kernel's id of this boot; monotonic seconds compare only within one."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return "unknown-boot"


def now() -> Moment:
    """This instant."""
    return Moment(time.time(), boot_id(), time.monotonic())


def elapsed_s(since: Moment, until: Moment, *, at_least: float = 0.0) -> float:
    """Seconds from `since` to `until`: by the monotonic clock within one boot, else by UTC; never below `at_least`."""
    if since.boot and since.boot == until.boot:
        return max(until.mono - since.mono, at_least, 0.0)
    return max(until.utc - since.utc, at_least, 0.0)
