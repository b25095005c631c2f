"""What a benchmark found: rows of ours beside the other, each with its target, and the machine they were measured on.

Only ratios of interleaved rounds travel between machines. A row therefore has the median of the rounds' own ratios,
and not the ratio of the medians: what disturbed one round disturbed both of its sides.
"""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import psutil

from state.words import API_VERSION, ExitCode

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Row:
    """One measure. `other`, `ratio` and `met` are None where there is nothing to compare, or no target."""

    name: str
    unit: str
    ours: float | None
    other: float | None = None
    other_name: str = ""
    ratio: float | None = None
    target: str = ""
    """The target as people read it: `ratio >= 0.8`."""
    met: bool | None = None
    note: str = ""
    """What was on, what it was measured with, or why it was not measured."""


def compared(
    name: str,
    unit: str,
    ours: Sequence[float],
    other: Sequence[float],
    other_name: str,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    note: str = "",
) -> Row:
    """A row of two sides measured in interleaved rounds; the target, if any, is on the ratio ours / other."""
    ratio = statistics.median(a / b if b else math.inf for a, b in zip(ours, other, strict=True))
    target, met = _judged("ratio", ratio, at_least, at_most)
    return Row(name, unit, statistics.median(ours), statistics.median(other), other_name, ratio, target, met, note)


def limited(
    name: str,
    unit: str,
    ours: Sequence[float],
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    note: str = "",
) -> Row:
    """A row of our own number alone: the median of its rounds, against an absolute target if there is one."""
    value = statistics.median(ours)
    target, met = _judged("ours", value, at_least, at_most)
    return Row(name, unit, value, target=target, met=met, note=note)


def not_measured(name: str, unit: str, other_name: str, note: str, target: str = "") -> Row:
    """A row that says why it is empty, and what to do about it. It is neither met nor missed."""
    return Row(name, unit, None, None, other_name, None, target, None, note)


def _judged(what: str, value: float, at_least: float | None, at_most: float | None) -> tuple[str, bool | None]:
    if at_least is not None:
        return f"{what} >= {at_least:g}", value >= at_least
    if at_most is not None:
        return f"{what} <= {at_most:g}", value <= at_most
    return "", None


def quantile(values: Sequence[float], q: float) -> float:
    """The value that a share `q` of `values` does not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)]


def interleaved(rounds: int, sides: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
    """Measure every side once a round; the order turns with each round, so that none is always first or last."""
    names = list(sides)
    found: dict[str, list[T]] = {name: [] for name in names}
    for turn in range(rounds):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            found[name].append(sides[name]())
    return found


@dataclass(frozen=True, slots=True)
class Report:
    """A benchmark's rows, and where and when they were measured."""

    bench: str
    rows: tuple[Row, ...]
    hardware: str = field(default_factory=lambda: hardware_line())
    at: float = field(default_factory=time.time)
    notes: tuple[str, ...] = ()

    @property
    def exit_code(self) -> ExitCode:
        """GATE when a target is missed. A row that could not be measured misses nothing."""
        return ExitCode.GATE if any(row.met is False for row in self.rows) else ExitCode.OK

    def as_json(self) -> str:
        """The report in the shape of every JSON answer."""
        at = datetime.fromtimestamp(self.at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        item = {
            "bench": self.bench,
            "hardware": self.hardware,
            "passed": self.exit_code is ExitCode.OK,
            "rows": [asdict(row) for row in self.rows],
            "notes": list(self.notes),
        }
        return json.dumps({"apiVersion": API_VERSION, "kind": "BenchReport", "asOf": at, "items": [item]}, indent=2)

    def as_table(self) -> str:
        """The report for people: a line per row, notes under it."""
        header = ("MEASURE", "UNIT", "OURS", "OTHER", "", "RATIO", "TARGET", "MET", "NOTE")
        lines = [header]
        for row in self.rows:
            met = {True: "yes", False: "NO", None: "-"}[row.met]
            shown = (row.name, row.unit, _number(row.ours), _number(row.other), row.other_name, _number(row.ratio))
            lines.append((*shown, row.target or "-", met, row.note))
        widths = [max(len(line[at]) for line in lines) for at in range(len(header))]
        right = {2, 3, 5}
        table = (
            "  ".join(cell.rjust(width) if at in right else cell.ljust(width) for at, (cell, width) in enumerate(pairs))
            for pairs in (tuple(zip(line, widths, strict=True)) for line in lines)
        )
        missed = sum(row.met is False for row in self.rows)
        judged = sum(row.met is not None for row in self.rows)
        verdict = f"{judged - missed} of {judged} targets met"
        return "\n".join([self.hardware, "", *(line.rstrip() for line in table), "", *self.notes, verdict])


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


BUSY_LOAD = 0.5
"""Above this load per core before we begin, other programs are in the numbers, and the report says so."""


def busy_notes() -> tuple[str, ...]:
    """What a report says where other programs ran as it began; nothing on a quiet machine."""
    load = os.getloadavg()[0]
    if load <= BUSY_LOAD * (os.cpu_count() or 1):
        return ()
    return (f"other programs were running (load {load:.1f}): ratios hold, milliseconds are theirs as well",)


def hardware_line() -> str:
    """The machine in one line: CPU, cores this process may use, memory, GPU."""
    memory = psutil.virtual_memory().total / (1 << 30)
    cores = len(psutil.Process().cpu_affinity())
    return ", ".join([_cpu_model(), f"{cores} cores", f"{memory:.0f} GiB", _gpu() or "no GPU"])


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _gpu() -> str:
    """Name and memory of the GPUs, "" when there is none to ask for."""
    ask = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        said = subprocess.run(ask, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return " + ".join(said.stdout.split("\n")).strip(" +") if said.returncode == 0 else ""
