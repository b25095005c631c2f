"""A Unix socket that only this user may open."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def bind(path: Path | str) -> socket.socket:
    """A socket bound to `path`, in the place of a stale one: whoever calls holds the lock that makes it stale.

    Its mode is right from its first moment; a chmod afterwards would leave it open to others for an instant.
    """
    Path(path).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    former = os.umask(0o177)
    try:
        listener.bind(str(path))
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(former)
    return listener
