"""The files in which each gateway worker leaves its snapshots: what a dead one counted, and what a living one forgot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Shape = tuple[tuple[int, int], ...]
"""Size and modification time of each of a worker's files."""


def counted_workers(directory: Path) -> frozenset[str]:
    """The spawn ids that have count files in `directory`."""
    return frozenset(path.name.removeprefix("counts-").partition(".")[0] for path in directory.glob("counts-*.jsonl"))


def read_counts(directory: Path, spawn_id: str) -> list[dict[str, Any]]:
    """Every whole snapshot in a worker's files, in order. A torn line (it was killed in it) is no snapshot."""
    found: dict[int, dict[str, Any]] = {}
    for path in files_of(directory, spawn_id):
        try:
            lines = path.read_bytes().splitlines()
        except FileNotFoundError:
            continue  # rotated away between the listing and the reading; the next scan reads it
        for line in lines:
            try:
                snapshot = json.loads(line)
                found[int(snapshot["seq"])] = snapshot
            except (ValueError, KeyError, TypeError):
                continue
    return [found[seq] for seq in sorted(found)]


def files_of(directory: Path, spawn_id: str) -> list[Path]:
    """A worker's files: `counts-ID.jsonl`, and what was rotated away from it as `counts-ID.old.jsonl`."""
    return sorted(directory.glob(f"counts-{spawn_id}.*jsonl"))


def shape_of(directory: Path, spawn_id: str) -> Shape:
    """The shape of a worker's files: while it stays the same there is nothing new in them."""
    stats = [path.stat() for path in files_of(directory, spawn_id)]
    return tuple((stat.st_size, stat.st_mtime_ns) for stat in stats)
