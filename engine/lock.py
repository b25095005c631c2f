"""One engine a workspace: its flock, and the socket that only its holder binds."""

from __future__ import annotations

import contextlib
import grp
import json
import os
import socket
from types import TracebackType

from adapters.local import private_socket
from state.locks import take
from state.paths import Paths
from state.words import Conflict, UsageError

BACKLOG = 128


class EngineLock:
    """Held while the engine lives; the kernel lets go of it when it dies. Use as a context manager.

    Raises Conflict when another engine has the workspace.
    """

    def __init__(self, paths: Paths, group: str | None = None) -> None:
        self.paths = paths
        self.group = group
        self._fd = -1

    def __enter__(self) -> EngineLock:
        self._fd = os.open(self.paths.engine_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not take(self._fd):
            os.close(self._fd)
            raise Conflict(
                f"an engine is running in {self.paths.root} already{self._who()}",
                hint="`airboss status` shows it; `airboss down` stops it",
                code="engine_running",
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self.paths.engine_socket.unlink(missing_ok=True)
        os.close(self._fd)

    def listen(self) -> socket.socket:
        """The API's listening socket. A stale one is removed: only the lock's holder may, and it is us."""
        listener = private_socket.bind(self.paths.engine_socket)
        if self.group:
            self._share(self.group)
        listener.listen(BACKLOG)
        return listener

    def _share(self, group: str) -> None:
        try:
            gid = grp.getgrnam(group).gr_gid
        except KeyError:
            raise UsageError(f"engine.socket_group = {group!r}: there is no such group on this host") from None
        # The group may pass through the directories, not list them; the socket opens to it last, once it is the group's.
        shared = [*((path, 0o710) for path in self.paths.socket_dirs), (self.paths.engine_socket, 0o660)]
        for path, mode in shared:
            try:
                os.chown(path, -1, gid)
            except PermissionError:
                raise UsageError(
                    f"engine.socket_group = {group!r}: {path} cannot be given to it",
                    hint="the engine's user must be a member of that group",
                ) from None
            os.chmod(path, mode)

    def _who(self) -> str:
        try:
            return f" (pid {json.loads(self.paths.engine_info.read_text(encoding='utf-8'))['pid']})"
        except (OSError, ValueError, KeyError):
            return ""
