"""Giving the public listening socket away: whoever may connect to `fd_socket` receives its descriptor.

The engine opens the port; after its own restart it gets the port back here, so the port never closes.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from contextlib import suppress
from pathlib import Path


class Handoff:
    """A Unix socket that answers every connection of this user with `listen_fd`, and closes it."""

    def __init__(self, path: Path, listen_fd: int) -> None:
        self.path = path
        self._listen_fd = listen_fd
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)

    def open(self) -> None:
        """Bind and serve from the running loop. A file left by a killed worker is replaced."""
        self.path.unlink(missing_ok=True)
        self._socket.bind(str(self.path))
        os.chmod(self.path, 0o600)
        self._socket.listen(8)
        asyncio.get_running_loop().add_reader(self._socket, self._give)

    def close(self) -> None:
        """Serve no longer."""
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        self.path.unlink(missing_ok=True)

    def _give(self) -> None:
        with suppress(BlockingIOError, ConnectionError):  # the asker left before we came to it
            connection, _ = self._socket.accept()
            with connection:
                _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
                if uid in (0, os.getuid()):
                    socket.send_fds(connection, [b"L"], [self._listen_fd])
