"""What clusters have of each release, kept in the store: those who read there alone (plans, views, a console without an engine) know it too.

Replicas on this host have rows of their own (`Spawn`); a cluster's pods have none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from sqlmodel import Session

from adapters.ports import ReplicaStatus
from state import ids
from state.config import Config

KEY = "cluster.replicas"
Standing = dict[str, dict[str, Any]]
"""Environment → release → `ready` (replicas that answer) and `start_s` (the slowest start among them; None: not known)."""


def standing_of(config: Config, replicas: Callable[[str, str], Sequence[ReplicaStatus]]) -> Standing:
    """What every environment in a cluster has, as far as is known without waiting. Pure but for `replicas`."""
    found: Standing = {}
    for env, settings in config.environment.items():
        if settings.cluster is None:
            continue
        of = found.setdefault(env, {})
        for service in config.service:
            for one in replicas(service, env):
                if one.role or not (one.is_ready and one.is_alive):
                    continue
                known = of.setdefault(one.release_id, {"ready": 0, "start_s": None})
                known["ready"] += 1
                if one.start_s is not None:
                    known["start_s"] = max(round(one.start_s, 1), known["start_s"] or 0.0)
    return found


def note(session: Session, standing: Standing) -> None:
    """Keep it. How long a release took to start is remembered when nothing of it is left."""
    before = _read(session)
    for env, of in standing.items():
        for release, known in before.get(env, {}).items():
            of.setdefault(release, {"ready": 0, "start_s": known["start_s"]})
    ids.put(session, KEY, json.dumps(standing, sort_keys=True))


def is_cluster(session: Session, env: str) -> bool:
    """The environment runs in a cluster, and the engine has looked there."""
    return env in _read(session)


def ready_there(session: Session, env: str, release_id: str) -> int:
    """How many pods of the release answer; 0 for an environment on this host."""
    return int(_read(session).get(env, {}).get(release_id, {}).get("ready", 0))


def start_there(session: Session, env: str, release_id: str) -> float | None:
    """How long the release's pods took to start, else those of its neighbours there; None when none was seen."""
    of = _read(session).get(env, {})
    own = of.get(release_id, {}).get("start_s")
    return (
        own if own is not None else max((k["start_s"] for k in of.values() if k["start_s"] is not None), default=None)
    )


def _read(session: Session) -> Standing:
    return dict(json.loads(ids.get(session, KEY, "{}")))
