"""The processes that serve, found by the locks they hold: true with or without an engine."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from state.paths import Paths


def is_locked(path: Path) -> bool:
    """Somebody alive holds the lock at `path`. Asks with a shared lock, so that two who ask do not see each other."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def serving_children(paths: Paths, kinds: tuple[str, ...] = ("gateway", "model")) -> list[dict[str, Any]]:
    """Living children of these kinds, whoever started them."""
    found = []
    for spec_path in sorted(paths.run.glob("*.spec.json")):
        spawn_id = spec_path.name.removesuffix(".spec.json")
        try:
            spec = json.loads(spec_path.read_text(encoding="utf-8"))
            identity = json.loads((paths.run / f"{spawn_id}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            # A child between its spec and its identity is not serving yet.
            continue
        if spec.get("kind") not in kinds or not is_locked(paths.run / f"{spawn_id}.lock"):
            continue
        payload = spec.get("payload", {})
        found.append(
            {
                "spawn_id": spawn_id,
                "kind": spec["kind"],
                "service": payload.get("service", ""),
                "env": payload.get("env", ""),
                "release_id": payload.get("release_id", ""),
                "pid": identity.get("pid"),
                "state": "alive",
                "restarts": None,
                "started_at": identity.get("started_at"),
                "detail": "",
                "socket": spec.get("socket", ""),
            }
        )
    return found
