"""`airboss bench console`: the console in a pty, as it comes over SSH: start, key to paint, bytes, memory.

The engine beside it is a picture that costs nothing. Start is measured beside the import of textual in a fresh interpreter, in
the same rounds; the rest has absolute targets, which only a machine that does nothing else can be held to.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from engine.bench.console.terminal import Terminal
from engine.bench.console.world import NAME, Picture
from engine.bench.progress import say
from engine.bench.report import Report, Row, interleaved, limited, quantile

ROUNDS, QUICK_ROUNDS = 7, 3
FEW, MANY = 50, 10_000
KEYS, QUICK_KEYS = 60, 15
READY_MS, READY_RATIO = 600.0, 2.5
IDLE_S, LIVE_S = 10.0, 20.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Nothing of its own."""


def measure(options: argparse.Namespace) -> Report:
    """All rows."""
    quick = bool(options.quick)
    rounds = options.rounds or (QUICK_ROUNDS if quick else ROUNDS)
    with tempfile.TemporaryDirectory(prefix="ab-", dir="/tmp") as home:
        place = Path(home)
        rows = (
            _ready(place, rounds),
            *_lines(place, quick),
            *_many(place, QUICK_KEYS if quick else KEYS),
        )
    return Report("console", rows, notes=("160×48, TERM=xterm-256color, a still or a moving picture of an engine",))


@contextlib.contextmanager
def _console(place: Path, services: int, releases: int = 0, *, moves: bool = False) -> Iterator[Terminal]:
    picture = Picture(place / "e.sock", services, releases, moves=moves)
    terminal = Terminal(place / "e.sock")
    try:
        terminal.until(NAME.format(0).encode())
        yield terminal
    finally:
        terminal.close()
        picture.close()


def _ready(place: Path, rounds: int) -> Row:
    say(f"console: ready, {rounds} rounds beside the import of textual")

    def ours() -> float:
        picture = Picture(place / "e.sock", FEW)
        terminal = Terminal(place / "e.sock")
        try:
            return terminal.until(NAME.format(0).encode()) * 1000
        finally:
            terminal.close()
            picture.close()

    def textual() -> float:
        begun = time.monotonic()
        subprocess.run([sys.executable, "-c", "import textual.app, textual.screen, textual.widget"], check=True)
        return (time.monotonic() - begun) * 1000

    found = interleaved(rounds, {"ours": ours, "textual": textual})
    ratio = statistics.median(a / b for a, b in zip(found["ours"], found["textual"], strict=True))
    took = statistics.median(found["ours"])
    return Row(
        f"ready: from the start to {FEW} services on screen", "ms", took, statistics.median(found["textual"]),
        "python -c 'import textual'", ratio, f"ours <= {READY_MS:g} or ratio <= {READY_RATIO:g}",
        took <= READY_MS or ratio <= READY_RATIO,
    )  # fmt: skip


def _lines(place: Path, quick: bool) -> tuple[Row, ...]:
    share = 0.5 if quick else 1.0
    say("console: bytes while nothing changes, and while 50 rows do")
    with _console(place, FEW) as still:
        still.quiet()
        idle = still.read_all(IDLE_S * share)
    with _console(place, FEW, moves=True) as live:
        live.read_all(3.0)
        moving = live.read_all(LIVE_S * share) / (LIVE_S * share)
    return (
        limited("bytes while nothing changes", f"bytes in {IDLE_S * share:g} s", [float(idle)], at_most=0),
        limited(f"{FEW} rows of live numbers at 1 Hz", "bytes/s", [moving], at_most=2048),
    )


def _many(place: Path, keys: int) -> tuple[Row, ...]:
    say(f"console: {keys} keys with {MANY:,} rows")
    with _console(place, FEW, MANY) as terminal:
        terminal.quiet()
        terminal.answer_s(b"4")
        terminal.quiet()
        took = []
        for _ in range(keys):
            took.append(terminal.answer_s(b"j") * 1000)
            terminal.quiet(0.25)
        memory = terminal.rss_mb()
    note = f"median {statistics.median(took):.0f}, slowest {max(took):.0f}; the engine is looked at once a second meanwhile"
    return (
        limited(f"key to paint with {MANY:,} rows, 95 %", "ms", [quantile(took, 0.95)], at_most=50, note=note),
        limited(f"memory with {MANY:,} objects", "MB", [memory], at_most=120),
    )
