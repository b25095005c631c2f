"""Lines appended to files in segments: the request ledger, the kept count snapshots, users' feedback.

Writers only add to memory; one thread of the worker takes a batch to the disk each second. A disk that is full or
stuck costs lines, which are counted as dropped, and never a request.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import Executor, Future
from pathlib import Path

from engine.gateway.logs import log

MAX_WAITING = 100_000
"""Lines held in memory while the disk does not take them."""


class Segments:
    """`<stem>-<n>.jsonl` files in a directory, each at most about `max_bytes`, the newest `keep` of them kept."""

    def __init__(self, directory: Path, stem: str, *, max_bytes: int, keep: int) -> None:
        self.directory = directory
        self.stem = stem
        self.max_bytes = max_bytes
        self.keep = keep
        self._number = 1
        self._size = 0

    def path(self, number: int) -> Path:
        """The file of segment `number`."""
        return self.directory / f"{self.stem}-{number}.jsonl"

    def append(self, text: str) -> None:
        """Put whole lines at the end. Blocks. Raises OSError."""
        data = text.encode()
        if self._size and self._size + len(data) > self.max_bytes:
            self._number, self._size = self._number + 1, 0
            self.path(self._number - self.keep).unlink(missing_ok=True)
        self._size += _append(self.path(self._number), data)


class Rotated:
    """One file, and the one before it as `<name>.old.jsonl`: the last minutes, in bounded space."""

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self._size = 0

    def append(self, text: str) -> None:
        """Put whole lines at the end. Blocks. Raises OSError."""
        data = text.encode()
        if self._size and self._size + len(data) > self.max_bytes:
            os.replace(self.path, self.path.with_suffix(".old.jsonl"))
            self._size = 0
        self._size += _append(self.path, data)


def _append(path: Path, data: bytes) -> int:
    with path.open("ab", buffering=0) as file:
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]
    return len(data)


class Spool:
    """Lines on their way to a file. All methods but the file's own append belong to the event loop's thread."""

    def __init__(self, file: Segments | Rotated, thread: Executor) -> None:
        self.dropped = 0
        self.last_error = ""
        self._file = file
        self._thread = thread
        self._lines: list[str] = []
        self._writing: Future[None] | None = None
        self._sent = 0

    def add(self, line: dict[str, object]) -> None:
        """Take one line; it reaches the disk with the next flush."""
        self.add_text(json.dumps(line, separators=(",", ":")))

    def add_text(self, line: str) -> None:
        """Take one line that is JSON already."""
        if len(self._lines) >= MAX_WAITING:
            self.dropped += 1
            return
        self._lines.append(line)

    def flush(self) -> Future[None] | None:
        """Hand what waits to the thread, unless it is still busy with the batch before. Never blocks."""
        if self._writing is not None:
            if not self._writing.done():
                return self._writing
            self._settle(self._writing)
        if self._lines:
            batch, self._lines = self._lines, []
            self._sent = len(batch)
            self._writing = self._thread.submit(self._file.append, "\n".join(batch) + "\n")
        return self._writing

    def _settle(self, writing: Future[None]) -> None:
        self._writing = None
        if error := writing.exception():
            self.dropped += self._sent
            self.last_error = str(error)
            log("lines_dropped", lines=self._sent, error=str(error))
