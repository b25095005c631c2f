"""The parent's half of spawn and adopt: start a child, watch it by pidfd, find it again after a restart.

The flock a child holds, not its pid, says whether it lives; the pidfd says when it has ended, also for children that an
earlier engine started.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from adapters.local import pidfd
from adapters.local.child import ChildSpec, process_start_ticks
from adapters.local.waiting import Waiting
from state.locks import is_locked
from state.words import OperationFailed

LOG_LIMIT_BYTES = 8 * 1024 * 1024
PASSED_ENV = (
    "HOME",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "PATH",
    "TMPDIR",
    "TZ",
    "USER",
    "XDG_RUNTIME_DIR",
    "CUDA_VISIBLE_DEVICES",
    "LD_LIBRARY_PATH",
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "SSL_CERT_FILE",
    "PYTHONDONTWRITEBYTECODE",
)
"""What a child inherits of the engine's environment; the rest is dropped."""


@dataclass(frozen=True, slots=True)
class ChildExit:
    """How a child ended. `code` is None when it was killed and could not say."""

    code: int | None
    cause: str


@dataclass(slots=True)
class Child:
    """A child process, ours or adopted."""

    spec: ChildSpec
    pid: int
    popen: subprocess.Popen[bytes] | None = None

    def is_alive(self) -> bool:
        """It holds its lock, or (just started) has not come to take it yet."""
        if self.popen is not None:
            return self.popen.poll() is None
        return is_locked(self.spec.lock_path)

    async def wait(self) -> ChildExit:
        """Wait until the process has ended, however it was started, and say how."""
        await pidfd.ended(self.pid)
        return self._ended()

    async def terminate(self, grace_s: float) -> ChildExit:
        """Ask the process group to end, and after `grace_s` seconds end it."""
        self._signal(signal.SIGTERM)
        try:
            return await asyncio.wait_for(self.wait(), grace_s)
        except TimeoutError:
            self.kill()
            return await self.wait()

    def kill(self) -> None:
        """SIGKILL the whole process group."""
        self._signal(signal.SIGKILL)

    def _signal(self, signum: int) -> None:
        if not self.is_alive():
            return
        try:
            os.killpg(self.pid, signum)
        except ProcessLookupError:
            return

    def _ended(self) -> ChildExit:
        code = self.popen.wait() if self.popen is not None else None
        said = exit_record(self.spec.exit_path)
        if said is not None:
            return said
        if code is not None and code < 0:
            return ChildExit(None, f"killed by {signal.Signals(-code).name}")
        if code is not None:
            return ChildExit(code, f"left with {code} before it could say why; see its log")
        return ChildExit(None, "killed, cause unknown")


class Spawner:
    """Starts children into `run_dir` and `log_dir`, and finds those that an earlier engine started."""

    def __init__(self, run_dir: Path, log_dir: Path) -> None:
        self.run_dir = run_dir
        self.log_dir = log_dir

    def spawn(
        self,
        spec: ChildSpec,
        module: str,
        *,
        log_path: Path | None = None,
        pass_fds: Sequence[int] = (),
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        nice: int = 0,
        waiting: Waiting | None = None,
    ) -> Child:
        """Start `python -P -m module SPEC` in a session of its own. Raises OperationFailed when it cannot start.

        A child of that module that is `waiting` gets the spec instead; one that is gone is as good as none.
        """
        spec_path = self.run_dir / f"{spec.spawn_id}.spec.json"
        spec.write(spec_path)
        log = log_path or self.log_dir / f"{spec.spawn_id}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        rotate(log)
        if waiting is not None:
            if waiting.hand_over(spec_path, log):
                return Child(spec, waiting.pid, waiting.popen)
            waiting.dismiss()
        try:
            with log.open("ab") as out:
                popen = subprocess.Popen(
                    _command(module, str(spec_path), nice=nice),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env={**clean_environment(), **(env or {})},
                    cwd=cwd or self.run_dir,
                    pass_fds=tuple(pass_fds),
                    start_new_session=True,
                )
        except OSError as error:
            raise OperationFailed(
                f"{spec.kind} {spec.spawn_id} could not be started: {error}", hint="see `airboss doctor`"
            ) from error
        return Child(spec, popen.pid, popen)

    def start_waiting(self, module: str, *args: str, nice: int = 0) -> Waiting | None:
        """Start a child of `module` that waits for its spec (see `told`); None when it cannot start: it was only to save time."""
        try:
            popen = subprocess.Popen(
                _command(module, *args, nice=nice),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=clean_environment(),
                cwd=self.run_dir,
                start_new_session=True,
            )
        except OSError:
            return None
        return Waiting(popen)

    def adopt(self, spawn_id: str) -> Child | None:
        """The living child `spawn_id` of an earlier engine; None when nobody holds its lock."""
        spec = self.spec_of(spawn_id)
        if spec is None:
            return None
        if not is_locked(spec.lock_path):
            return None
        identity = _identity(spec.identity_path)
        if identity is None:
            return None
        pid, ticks = identity
        if process_start_ticks(pid) != ticks:
            return None
        return Child(spec, pid)

    def spec_of(self, spawn_id: str) -> ChildSpec | None:
        """What the child was started for; None once it is forgotten."""
        try:
            return ChildSpec.read(self.run_dir / f"{spawn_id}.spec.json")
        except (OSError, ValueError, KeyError):
            return None

    def exit_of(self, spawn_id: str) -> ChildExit:
        """How the dead child `spawn_id` ended."""
        said = exit_record(self.run_dir / f"{spawn_id}.exit.json")
        return said or ChildExit(None, "killed, cause unknown")

    def living(self) -> dict[str, Child]:
        """Every living child that `run_dir` knows, whoever started it."""
        found = {}
        for path in self.run_dir.glob("*.spec.json"):
            spawn_id = path.name.removesuffix(".spec.json")
            child = self.adopt(spawn_id)
            if child is not None:
                found[spawn_id] = child
        return found

    def came_up(self, spawn_id: str) -> bool:
        """The child once held its lock and said who it is."""
        return (self.run_dir / f"{spawn_id}.json").exists()

    def disown(self, spawn_id: str) -> bool:
        """Make sure that a child which is not alive never will be; False when it is alive.

        Its spec goes while we hold its lock: one that was spawned and has not come to its lock yet finds none, and leaves.
        """
        lock = os.open(self.run_dir / f"{spawn_id}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (self.run_dir / f"{spawn_id}.spec.json").unlink(missing_ok=True)
        except BlockingIOError:
            return False
        finally:
            os.close(lock)
        return True

    def forget(self, spawn_id: str) -> None:
        """Remove the files of a dead child; one that lives keeps them."""
        if self.disown(spawn_id):
            for suffix in (".json", ".exit.json", ".lock"):
                (self.run_dir / f"{spawn_id}{suffix}").unlink(missing_ok=True)


def _command(module: str, *args: str, nice: int) -> list[str]:
    command = [sys.executable, "-P", "-m", module, *args]
    return ["nice", "-n", str(nice), *command] if nice else command


def exit_record(path: Path) -> ChildExit | None:
    """What a child wrote of its own end, if it could."""
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return ChildExit(int(body["code"]), str(body["cause"]))


def clean_environment() -> dict[str, str]:
    """The engine's environment less all that a child has no business with."""
    kept = {name: os.environ[name] for name in PASSED_ENV if name in os.environ}
    # OpenMP threads that spin for each other on a shared machine make a step 75 times slower; let them sleep.
    return {"OMP_WAIT_POLICY": "PASSIVE", **kept, "PYTHONUNBUFFERED": "1", "PYTHONNOUSERSITE": "1"}


def rotate(path: Path) -> None:
    """Move a log that has grown over LOG_LIMIT_BYTES aside; one old one is kept."""
    if path.exists() and path.stat().st_size > LOG_LIMIT_BYTES:
        os.replace(path, path.with_name(path.name + ".1"))


def new_spawn_id(prefix: str) -> str:
    """A name for a child: unique, short enough for a socket's path, sorted by time within a prefix."""
    return f"{prefix}{int(time.time() * 1000) % 36**6:07x}{os.urandom(2).hex()}"


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        return int(body["pid"]), int(body["start_ticks"])
    except (OSError, ValueError, KeyError):
        return None
