"""Where a workspace keeps its things. Standard library only."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from state.words import UsageError

STATE_DIR = ".airboss"
SOCKET_PATH_LIMIT = 107
"""Bytes of a Unix socket's path that the kernel takes (sun_path less its NUL)."""


@dataclass(frozen=True, slots=True)
class Paths:
    """All paths of the workspace at `root` (absolute, symlinks resolved)."""

    root: Path

    @classmethod
    def of(cls, root: Path) -> Paths:
        """The paths of the workspace at `root`."""
        return cls(root.resolve())

    @property
    def state(self) -> Path:
        """Everything that Airboss writes."""
        return self.root / STATE_DIR

    @property
    def store(self) -> Path:
        """The SQLite file."""
        return self.state / "state.db"

    @property
    def reserve(self) -> Path:
        """64 MiB to give back when the disk is full."""
        return self.state / "reserve"

    @property
    def engine_lock(self) -> Path:
        """Held by the workspace's one engine."""
        return self.state / "engine.lock"

    @property
    def engine_info(self) -> Path:
        """Who the engine is: pid, version, socket."""
        return self.state / "engine.json"

    @property
    def run(self) -> Path:
        """Spec, lock, identity and exit files of children."""
        return self.state / "run"

    @property
    def logs(self) -> Path:
        """Logs of the engine and of its children."""
        return self.state / "logs"

    @property
    def gateway(self) -> Path:
        """The routing table kept, counts and the request ledger."""
        return self.state / "gateway"

    @property
    def releases(self) -> Path:
        """One bundle a release."""
        return self.state / "releases"

    @property
    def models(self) -> Path:
        """Bundles made of foreign models, by content."""
        return self.state / "models"

    @property
    def cache(self) -> Path:
        """Stage outputs by key."""
        return self.state / "cache"

    @property
    def runs(self) -> Path:
        """Stage logs, a directory a run."""
        return self.state / "runs"

    @property
    def mlflow(self) -> Path:
        """The embedded registry."""
        return self.state / "mlflow"

    @property
    def rollback(self) -> Path:
        """Rollback plans, a file a service and environment."""
        return self.state / "rollback"

    @property
    def backups(self) -> Path:
        """Copies of the store made before upgrades, and every backup unless airboss.toml names another directory."""
        return self.state / "backups"

    @property
    def socket_dirs(self) -> tuple[Path, ...]:
        """The directories down to `sockets` that are Airboss's own, outermost first.

        Below XDG_RUNTIME_DIR, which the system made for this user; else below `airboss-UID` in the directory for
        temporary files, which everybody may write to.
        """
        key = hashlib.sha256(str(self.root).encode()).hexdigest()[:12]
        base = os.environ.get("XDG_RUNTIME_DIR") or ""
        if base and os.access(base, os.W_OK):
            return (Path(base) / "airboss", Path(base) / "airboss" / key)
        top = Path(tempfile.gettempdir()) / f"airboss-{os.getuid()}"
        return (top, top / "airboss", top / "airboss" / key)

    @property
    def sockets(self) -> Path:
        """The directory of this workspace's Unix sockets, short enough for their paths to be bound."""
        return self.socket_dirs[-1]

    @property
    def engine_socket(self) -> Path:
        """Where an engine started from here listens. Who looks for one that runs asks `live_engine_socket`."""
        return self.sockets / "engine.sock"

    def live_engine_socket(self) -> Path:
        """The API of the engine that runs: where it said it listens, for its XDG_RUNTIME_DIR may be another than ours."""
        try:
            said = json.loads(self.engine_info.read_text(encoding="utf-8"))["socket"]
        except (OSError, ValueError, KeyError, TypeError):
            return self.engine_socket
        return Path(said) if isinstance(said, str) and said else self.engine_socket

    def make(self) -> None:
        """Create the directories, owned by this user alone.

        Raises UsageError when a socket's path would be too long, or somebody else may write where the sockets are.
        """
        for path in (
            self.state,
            self.run,
            self.logs,
            self.gateway,
            self.gateway / "ledger",
            self.releases,
            self.cache,
            self.runs,
            self.mlflow,
            self.rollback,
        ):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in self.socket_dirs:
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=0o700)
            _refuse_shared(path)
        longest = len(os.fsencode(str(self.sockets / "g-xxxxxxxxxxxx.fd.sock")))
        if longest > SOCKET_PATH_LIMIT:
            raise UsageError(
                f"sockets below {self.sockets} would have paths of {longest} bytes; the kernel takes {SOCKET_PATH_LIMIT}",
                hint="set XDG_RUNTIME_DIR to a shorter directory",
            )


def _refuse_shared(directory: Path) -> None:
    """Raise UsageError when others could put a socket of theirs into `directory`, or in the place of it."""
    found = directory.lstat()
    if found.st_uid != os.getuid():
        raise UsageError(
            f"{directory} belongs to another user; the engine's sockets must not be there",
            hint="set XDG_RUNTIME_DIR to a directory of your own",
            code="socket_dir",
        )
    if not stat.S_ISDIR(found.st_mode):
        raise UsageError(
            f"{directory} is no directory; the engine's sockets go there", hint="move it away", code="socket_dir"
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UsageError(
            f"{directory} may be written to by others (mode {stat.S_IMODE(found.st_mode):04o}); the engine's sockets "
            "must not be there",
            hint=f"look who has been there, then: chmod go-w {directory}",
            code="socket_dir",
        )
