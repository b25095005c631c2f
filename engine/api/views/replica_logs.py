"""What a service's replicas wrote: those that live, and the last ones that ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlmodel import Session, col, select

from state.log_files import tail
from state.models import Spawn

SHOWN = 12


def replica_logs(
    session: Session, logs: Path, service: str, env: str, replica: str, lines: int
) -> list[dict[str, Any]]:
    """The last `lines` lines of each, newest replica first; `replica` is the beginning of an id."""
    query = select(Spawn).where(Spawn.kind == "model", Spawn.service == service)
    if env:
        query = query.where(Spawn.env == env)
    if replica:
        query = query.where(col(Spawn.spawn_id).startswith(replica, autoescape=True))
    rows = session.exec(query.order_by(col(Spawn.started_at).desc()).limit(SHOWN))
    return [
        {
            "id": row.spawn_id, "env": row.env, "release_id": row.release_id, "state": row.state, "started_at": row.started_at,
            "ended_at": row.ended_at, "end_cause": row.end_cause, "text": tail(logs / f"{row.spawn_id}.log", lines),
        }
        for row in rows
    ]  # fmt: skip
