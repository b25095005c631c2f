"""The processes that serve, found by the locks they hold: true with or without an engine."""

from __future__ import annotations

import json
from typing import Any

from state.locks import is_locked
from state.paths import Paths


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
