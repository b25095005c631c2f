"""Where a workspace keeps its things. Standard library only."""

from __future__ import annotations

import hashlib
import os
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
    def sockets(self) -> Path:
        """The directory of this workspace's Unix sockets, short enough for their paths to be bound."""
        base = os.environ.get("XDG_RUNTIME_DIR") or ""
        if not base or not os.access(base, os.W_OK):
            base = str(Path(tempfile.gettempdir()) / f"airboss-{os.getuid()}")
        key = hashlib.sha256(str(self.root).encode()).hexdigest()[:12]
        return Path(base) / "airboss" / key

    @property
    def engine_socket(self) -> Path:
        """The engine's API."""
        return self.sockets / "engine.sock"

    def make(self) -> None:
        """Create the directories, owned by this user alone.

        Raises UsageError when a socket's path would be too long, or the socket directory is another user's.
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
        top = self.sockets.parent.parent
        if not top.exists():
            top.mkdir(mode=0o700)
        self.sockets.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.sockets.stat().st_uid != os.getuid():
            raise UsageError(
                f"{self.sockets} belongs to another user", hint="set XDG_RUNTIME_DIR to a directory of your own"
            )
        longest = len(os.fsencode(str(self.sockets / "g-xxxxxxxxxxxx.fd.sock")))
        if longest > SOCKET_PATH_LIMIT:
            raise UsageError(
                f"sockets below {self.sockets} would have paths of {longest} bytes; the kernel takes {SOCKET_PATH_LIMIT}",
                hint="set XDG_RUNTIME_DIR to a shorter directory",
            )
