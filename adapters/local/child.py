"""The child's half of spawn and adopt: take the lock for life, say who one is, say how one ended.

A child is started as `python -P -m MODULE SPEC.json`. The spec was written by the engine before the spawn. The
child takes an flock on `<run>/<spawn_id>.lock` that only its death releases, writes `<spawn_id>.json` (pid, start
time, boot id, digest) and, when it ends by its own will, `<spawn_id>.exit.json`. None of the last means killed.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from state.clock import boot_id
from state.locks import take
from state.words import CHILD_PROTOCOL, ExitCode


def process_start_ticks(pid: int) -> int:
    """Clock ticks after boot when `pid` started (field 22 of /proc/PID/stat); 0 when there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[19])


def write_json(path: Path, value: object) -> None:
    """Write `value` aside and rename, so that a reader sees all of it or nothing."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with aside.open("w", encoding="utf-8") as file:
        json.dump(value, file, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """What a child was started for.

    `socket` is the Unix socket path it must serve its admin protocol on ("" for stages), `digest` what the engine
    expects it to load (a release's digest, a table's id), `payload` the kind's own settings.
    """

    spawn_id: str
    kind: str
    run_dir: Path
    socket: str
    digest: str
    payload: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> ChildSpec:
        """The spec in the file `path`."""
        body = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            spawn_id=body["spawn_id"],
            kind=body["kind"],
            run_dir=Path(body["run_dir"]),
            socket=body["socket"],
            digest=body["digest"],
            payload=body["payload"],
        )

    def write(self, path: Path) -> None:
        """Put the spec where its child will read it."""
        write_json(
            path,
            {
                "spawn_id": self.spawn_id,
                "kind": self.kind,
                "run_dir": str(self.run_dir),
                "socket": self.socket,
                "digest": self.digest,
                "payload": self.payload,
                "protocol": CHILD_PROTOCOL,
            },
        )

    @property
    def lock_path(self) -> Path:
        """Held by the child for life."""
        return self.run_dir / f"{self.spawn_id}.lock"

    @property
    def identity_path(self) -> Path:
        """Who the child is, once it is."""
        return self.run_dir / f"{self.spawn_id}.json"

    @property
    def exit_path(self) -> Path:
        """How it ended, if it could say."""
        return self.run_dir / f"{self.spawn_id}.exit.json"

    def identity(self) -> dict[str, object]:
        """What a handshake answers: DESIGN §3, adoption = lock held + spawn_id and digest returned."""
        return {
            "spawn_id": self.spawn_id,
            "digest": self.digest,
            "kind": self.kind,
            "pid": os.getpid(),
            "protocol": CHILD_PROTOCOL,
        }


class LossyLog(io.TextIOWrapper):
    """A child's standard output. On a full disk a line is lost, and never the request that wanted to write it."""

    def __init__(self, fd: int) -> None:
        raw = open(fd, "wb", buffering=0, closefd=False)  # noqa: SIM115 — open for life, like the descriptor
        super().__init__(raw, encoding="utf-8", errors="backslashreplace", write_through=True)

    def write(self, text: str, /) -> int:
        """Write, if the disk takes it."""
        with contextlib.suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        """Nothing is kept back that could be flushed; what could not be written is gone."""
        with contextlib.suppress(OSError):
            super().flush()


def run_child(argv: list[str], body: Callable[[ChildSpec], int]) -> int:
    """Be the child that `argv[1]`'s spec describes: lock, identity, `body`, exit record. Returns the exit code."""
    sys.stdout, sys.stderr = LossyLog(1), LossyLog(2)
    spec = ChildSpec.read(Path(argv[1]))
    lock = os.open(spec.lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if not take(lock):
        sys.stderr.write(f"{spec.kind} {spec.spawn_id}: another process holds {spec.lock_path}; leaving\n")
        return int(ExitCode.CONFLICT)
    if not Path(argv[1]).exists():
        sys.stderr.write(f"{spec.kind} {spec.spawn_id}: nobody means this child any more; leaving\n")
        return int(ExitCode.CONFLICT)
    write_json(
        spec.identity_path,
        {
            **spec.identity(),
            "start_ticks": process_start_ticks(os.getpid()),
            "boot_id": boot_id(),
            "started_at": time.time(),
        },
    )
    code, cause = int(ExitCode.FAILED), "crashed"
    try:
        code = body(spec)
        cause = "exited"
    except SystemExit as error:
        code, cause = (error.code if isinstance(error.code, int) else 1), "exited"
        raise
    except BaseException as error:
        cause = f"{type(error).__name__}: {error}"
        raise
    finally:
        write_json(spec.exit_path, {"spawn_id": spec.spawn_id, "code": code, "cause": cause, "at": time.time()})
    return code
