"""Hashing of a stage's inputs beside `sha256sum`: one large file, and the same bytes in several files on every core."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from engine.bench.progress import say
from engine.bench.report import Row, compared, interleaved, not_measured
from engine.pipelines.fingerprint import source_digest
from state.digests import file_sha256

HASH_BYTES, QUICK_BYTES = 1 << 30, 128 << 20
PARTS = 16
TARGET = 0.8
PIECE = 1 << 20


def hashing_rows(folder: Path, size: int, rounds: int) -> Iterator[Row]:
    """Bytes a second of ours and of `sha256sum`, files in the page cache; the digests are held to be the same."""
    said = f"≥ {TARGET:g} × sha256sum"
    name = f"hashing {size >> 20} MB"
    program = shutil.which("sha256sum")
    if program is None:
        yield not_measured(name, "MB/s", "sha256sum", "no sha256sum here: coreutils has it", said)
        return
    folder.mkdir(parents=True)
    whole, parts = folder / "whole", folder / "parts"
    parts.mkdir()
    say(f"writing {size >> 20} MB twice")
    _write(whole, size)
    for at in range(PARTS):
        _write(parts / f"{at:02}", size // PARTS)
    theirs = _sum(program, [whole], 1)
    if file_sha256(whole) != theirs:
        raise AssertionError("sha256sum says another digest")  # else the numbers would mean nothing
    cores = len(os.sched_getaffinity(0))
    sides = {
        "one": partial(_mb_s, size, lambda: file_sha256(whole)),
        "their one": partial(_mb_s, size, lambda: _sum(program, [whole], 1)),
        "many": partial(_mb_s, size, lambda: source_digest("parts", folder)),
        "their many": partial(_mb_s, size, lambda: _sum(program, sorted(parts.iterdir()), cores)),
    }
    say(f"hashing: {rounds} rounds")
    found = interleaved(rounds, sides)
    yield compared(f"{name} in one file", "MB/s", found["one"], found["their one"], "sha256sum", at_least=TARGET)
    yield compared(
        f"{name} in {PARTS} files", "MB/s", found["many"], found["their many"], f"xargs -P {cores} sha256sum", at_least=TARGET,
        note="a stage's folder of data, on every core",
    )  # fmt: skip
    shutil.rmtree(folder)


def _write(path: Path, size: int) -> None:
    piece = os.urandom(PIECE)
    with path.open("wb") as file:
        for _ in range(size // PIECE):
            file.write(piece)


def _mb_s(size: int, work: object) -> float:
    began = time.perf_counter()
    work()  # type: ignore[operator]
    return size / 1e6 / (time.perf_counter() - began)


def _sum(program: str, paths: list[Path], processes: int) -> str:
    words = ["xargs", "-0", "-P", str(processes), "-n", str(-(-len(paths) // processes)), program]
    done = subprocess.run(words, input=b"\0".join(os.fsencode(p) for p in paths), capture_output=True, check=True)
    return done.stdout.decode().split()[0]
