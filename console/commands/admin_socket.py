"""HTTP over a Unix socket with the standard library alone: for the hour in which nothing else works."""

from __future__ import annotations

import http.client
import socket

TIMEOUT_S = 5.0


class UnixConnection(http.client.HTTPConnection):
    """An HTTP connection to a socket in the file system."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket's path."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def request(
    path: str, method: str, target: str, body: str | None = None, *, timeout_s: float = TIMEOUT_S
) -> tuple[int, bytes]:
    """Status and body of one request. Raises OSError for everything that goes wrong on the way."""
    connection = UnixConnection(path, timeout_s)
    try:
        connection.request(method, target, body=body, headers={"Content-Type": "application/json"} if body else {})
        response = connection.getresponse()
        return response.status, response.read()
    except http.client.HTTPException as error:
        raise OSError(f"no HTTP answer: {error or type(error).__name__}") from error
    finally:
        connection.close()
