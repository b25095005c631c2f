"""The journal of effects: an intent before each, its outcome after (I3). Functions take the caller's session."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlmodel import Session, col, select

from engine.rollouts import effects as fx
from state.models import Intent, Rollout
from state.words import IntentState


@dataclass(frozen=True, slots=True)
class PendingIntent:
    """An intent to be carried out."""

    id: int
    rollout_id: str
    effect: fx.Effect
    attempts: int


RETRY_DONE_AFTER_S = 5.0


def intend(session: Session, row: Rollout, effect: fx.Effect) -> None:
    """Write that `effect` is wanted, once a state; what was done and is wanted again after a while is done again."""
    key = f"{row.id}/{row.step}/{effect.slug}/{row.revision}"
    known = session.exec(select(Intent).where(Intent.key == key)).first()
    if known is None:
        if effect.kind == "registry":
            row.registry_sync = "pending"
            session.add(row)
        session.add(Intent(key=key, rollout_id=row.id, kind=effect.kind, payload=fx.to_json(effect),
                           state=IntentState.PENDING, created_at=time.time()))  # fmt: skip
        return
    # Either way: a clock that was set back must not keep it from being done again for as long.
    is_stale = known.state == IntentState.DONE and abs(time.time() - (known.done_at or 0.0)) > RETRY_DONE_AFTER_S
    if (is_stale or known.state == IntentState.SUPERSEDED) and effect.kind != "registry":
        # The world has moved away from what was done (a gateway lost its table, a replica is starting): do it again.
        known.state = IntentState.PENDING
        session.add(known)


def supersede(session: Session, rollout_id: str, *, but: Sequence[str] = ()) -> None:
    """What was wanted earlier, did not happen and is not wanted now (`but` are slugs) must not happen any more.

    A weight that waited for its gateway must not come once the canary has died. The registry's moves stay.
    """
    earlier = select(Intent).where(Intent.rollout_id == rollout_id, Intent.state == IntentState.PENDING)
    for intent in session.exec(earlier.where(col(Intent.kind).in_(("scale", "route")))):
        if not but or fx.from_json(intent.payload).slug not in but:
            intent.state = IntentState.SUPERSEDED
            session.add(intent)


def pending(session: Session, kinds: Sequence[str], rollout_id: str = "") -> list[PendingIntent]:
    """Intents not yet carried out, oldest first."""
    query = select(Intent).where(Intent.state == IntentState.PENDING, col(Intent.kind).in_(kinds))
    if rollout_id:
        query = query.where(Intent.rollout_id == rollout_id)
    return [
        PendingIntent(row.id or 0, row.rollout_id, fx.from_json(row.payload), row.attempts)
        for row in session.exec(query.order_by(col(Intent.id)))
    ]


def close_intent(session: Session, intent_id: int, outcome: Mapping[str, Any], *, done: bool) -> None:
    """Record what came of an intent; one that is not done stays pending."""
    row = session.get(Intent, intent_id)
    if row is None:
        return
    row.attempts += 1
    row.outcome = dict(outcome)
    if done:
        row.state, row.done_at = IntentState.DONE, time.time()
    session.add(row)
