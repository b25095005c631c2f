"""How many replicas a served track should have: what the workspace says, what its autoscaler last decided, or what a hand set."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from engine.rollouts import records
from state import clock, ids
from state.config import Config
from state.models import Rollout, TrackState


@dataclass(frozen=True, slots=True)
class ByHand:
    """A number of replicas that somebody set. Times are Unix seconds; `until` None: until somebody takes it back."""

    replicas: int
    by: str
    reason: str
    at: float
    until: float | None


def wanted_replicas(session: Session, config: Config, service: str, env: str) -> int:
    """The number for each track of the service there. What the autoscaler decided is kept in the tracks' rows."""
    hand = by_hand(session, service, env)
    return hand.replicas if hand is not None else unhanded(session, config, service, env)


def unhanded(session: Session, config: Config, service: str, env: str) -> int:
    """The number without a hand in it."""
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


def by_hand(session: Session, service: str, env: str) -> ByHand | None:
    """The number that a hand set, while it holds. One that ends under a rollout holds until that ends: it counts on it (I13)."""
    kept = ids.get(session, _key(service, env))
    if not kept:
        return None
    hand = ByHand(**json.loads(kept))
    if hand.until is None or hand.until > clock.now().utc:
        return hand
    under = _moving(service, env).where(col(Rollout.created_at) < hand.until)
    return None if session.exec(under).first() is None else hand


def set_by_hand(session: Session, service: str, env: str, hand: ByHand) -> None:
    """Keep a hand's number; one whose `until` is 0 says that none holds."""
    ids.put(session, _key(service, env), json.dumps(asdict(hand)))


def is_moving(session: Session, service: str, env: str) -> bool:
    """A rollout of the service is under way there."""
    return session.exec(_moving(service, env)).first() is not None


def _moving(service: str, env: str) -> SelectOfScalar[str]:
    active = col(Rollout.state).in_(records.ACTIVE)
    return select(Rollout.id).where(Rollout.service == service, Rollout.env == env, active)


def may_exceed_file(session: Session, config: Config, service: str, env: str) -> bool:
    """Whether the number to have of what is served comes from elsewhere than the file: then a rollout follows it too."""
    return config.service[service].autoscale is not None or by_hand(session, service, env) is not None


def gives_back(session: Session, config: Config, service: str, env: str) -> bool:
    """Whether replicas above the wanted number are to go. Without autoscaler or hand, a rollout may have its reasons for them."""
    if config.service[service].autoscale is not None:
        return True
    return bool(ids.get(session, _key(service, env))) and not is_moving(session, service, env)


def _key(service: str, env: str) -> str:
    return f"replicas.by_hand/{env}/{service}"
