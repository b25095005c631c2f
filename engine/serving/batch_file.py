"""The files of an offline batch, in OpenAI's format: requests in, one JSON line each; answers out, in any order."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from state.words import OperationFailed, UsageError


@dataclass(frozen=True, slots=True)
class BatchLine:
    """One request of a batch. `problem` says why the line is none."""

    key: str
    """What an answer is recognised by: the `custom_id`, or the number of a line that has none."""
    custom_id: str | None
    method: str = "POST"
    url: str = ""
    body: Any = None
    problem: str = ""

    def answered(self, status: int, body: dict[str, Any]) -> dict[str, Any]:
        """The record of an answer, as the endpoint gave it."""
        response = {"status_code": status, "request_id": f"req-{self.key}", "body": body}
        return {"id": f"batch_req_{self.key}", "custom_id": self.custom_id, "response": response, "error": None}

    def refused(self) -> dict[str, Any]:
        """The record of a line that is no request."""
        error = {"code": "invalid_line", "message": self.problem}
        return {"id": f"batch_req_{self.key}", "custom_id": self.custom_id, "response": None, "error": error}


def lines_of(path: Path) -> Iterator[BatchLine]:
    """The requests in a file. Raises UsageError when it cannot be read; a line that is no request says so itself."""
    seen: set[str] = set()
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for number, text in enumerate(file, 1):
                if not text.strip():
                    continue
                line = _line(number, text)
                if line.key in seen:
                    line = _bad(
                        number, line.custom_id, f"custom_id {line.custom_id!r} stood in an earlier line already"
                    )
                seen.add(line.key)
                yield line
    except OSError as error:
        raise UsageError(f"the batch {path} cannot be read: {error.strerror}") from error


def _line(number: int, text: str) -> BatchLine:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return _bad(number, None, f"the line is not JSON: {error}")
    if not isinstance(value, dict):
        return _bad(number, None, "the line is no JSON object")
    custom_id = value.get("custom_id")
    if not isinstance(custom_id, str) or not custom_id:
        return _bad(number, None, "custom_id must be a text")
    return BatchLine(
        custom_id, custom_id, str(value.get("method", "POST")), str(value.get("url", "")), value.get("body")
    )


def _bad(number: int, custom_id: str | None, problem: str) -> BatchLine:
    return BatchLine(f"line-{number}", custom_id, problem=f"line {number}: {problem}")


def finished_before(path: Path) -> set[str]:
    """Keys of the answers that an earlier run wrote. Half a line at the end, of a run that was killed, is cut off.

    Raises UsageError when the file is something else than answers: nothing of somebody's is overwritten.
    """
    keys: set[str] = set()
    try:
        with path.open("r+b") as file:
            whole = 0
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break
                keys.add(_key(line, number, path))
                whole += len(line)
            file.truncate(whole)
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}", hint="name another --out") from error
    return keys


def _key(line: bytes, number: int, path: Path) -> str:
    try:
        name = str(json.loads(line)["id"])
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"line {number} of {path} is no answer of a batch; nothing was changed", hint="name another --out"
        ) from error
    return name.removeprefix("batch_req_")


class Outbox:
    """The file of answers, open for appending. A line is written in one piece."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}", hint="name another --out") from error

    def __enter__(self) -> Outbox:
        """The file, to be closed at the block's end."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Everything is on the disk when the block ends."""
        os.fsync(self._fd)
        os.close(self._fd)

    def write(self, record: dict[str, Any]) -> None:
        """Append one answer. Raises OperationFailed when the disk does not take it; the next run mends half a line."""
        try:
            line = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        except UnicodeEncodeError:
            # A caller's custom_id may hold half a surrogate pair, which only an escape can say.
            line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        try:
            written = os.write(self._fd, line)
        except OSError as error:
            raise self._full(error.strerror or "") from error
        if written != len(line):
            raise self._full("the disk is full")

    def _full(self, why: str) -> OperationFailed:
        return OperationFailed(
            f"{self._path} cannot be written any further: {why}", hint="make room; the same command goes on from here"
        )
