"""How many replicas a served track should have: what the workspace says, or what its autoscaler last decided."""

from __future__ import annotations

from sqlmodel import Session, col, select

from state.config import Config
from state.models import TrackState


def wanted_replicas(session: Session, config: Config, service: str, env: str) -> int:
    """The number for each track of the service there. What the autoscaler decided is kept in the tracks' rows."""
    settings = config.service[service]
    if settings.autoscale is None:
        return settings.replicas
    rows = session.exec(select(TrackState.replicas).where(TrackState.service == service, TrackState.env == env))
    decided = max(rows, default=0)
    return min(max(decided or settings.replicas, settings.autoscale.min), settings.autoscale.max)


def set_wanted(session: Session, service: str, env: str, replicas: int) -> None:
    """Keep what the autoscaler decided, in the rows of every track that is served."""
    query = select(TrackState).where(TrackState.service == service, TrackState.env == env, col(TrackState.weight) > 0)
    for row in session.exec(query):
        row.replicas = replicas
        session.add(row)
