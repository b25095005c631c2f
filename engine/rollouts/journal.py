"""The journal of effects: an intent before each, its outcome after (I3). Functions take the caller's session."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlmodel import Session, col, select

from engine.rollouts import effects as fx
from engine.rollouts.values import Trouble
from state.models import Intent, Rollout
from state.words import AirbossError, IntentState, RolloutState


@dataclass(frozen=True, slots=True)
class PendingIntent:
    """An intent to be carried out."""

    id: int
    rollout_id: str
    effect: fx.Effect
    attempts: int
    retry_at: float = 0.0


RETRY_DONE_AFTER_S = 5.0
BACKOFF_S, BACKOFF_MOST_S = 0.5, 15.0
LONGEST_WAIT_S = 2 * BACKOFF_MOST_S
"""A moment further ahead was written before the clock was set back: it is not waited for."""
URGENT_MOST_S = 1.0
"""A way back is tried again at least this often."""


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


def intend_stage(session: Session, move: fx.RegistryMove, at: float) -> None:
    """Write that the registry must follow what a hand has said of a release; no rollout asks for it."""
    session.add(Intent(key=f"{move.release_id}/{move.slug}/{at:.6f}", kind=move.kind, payload=fx.to_json(move),
                       state=IntentState.PENDING, created_at=at))  # fmt: skip


def commanded(session: Session, rollout_id: str) -> dict[str, int]:
    """release → replicas as the rollout asked for them last, whether or not it has them yet."""
    query = select(Intent).where(Intent.rollout_id == rollout_id, Intent.kind == "scale")
    found: dict[str, int] = {}
    for row in session.exec(query.where(Intent.state != IntentState.SUPERSEDED).order_by(col(Intent.id))):
        effect = fx.from_json(row.payload)
        if isinstance(effect, fx.Scale) and not effect.role:
            found[effect.release_id] = effect.replicas
    return found


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
        PendingIntent(
            row.id or 0, row.rollout_id, fx.from_json(row.payload), row.attempts, row.outcome.get("retry_at", 0.0)
        )
        for row in session.exec(query.order_by(col(Intent.id)))
    ]


def pending_keys(session: Session, kind: str) -> list[str]:
    """Keys of the intents of a kind that are not done."""
    return list(session.exec(select(Intent.key).where(Intent.kind == kind, Intent.state == IntentState.PENDING)))


def is_pending(session: Session, intent_id: int) -> bool:
    """Whether the intent is wanted still: not done, and no later state has taken its place."""
    row = session.get(Intent, intent_id)
    return row is not None and row.state == IntentState.PENDING


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


def failed(session: Session, intent_id: int, error: Exception, *, is_urgent: bool) -> None:
    """Record that an intent did not come about; it stays pending, and is tried again after a while that grows."""
    row = session.get(Intent, intent_id)
    if row is None:
        return
    now = time.time()
    wait = min(BACKOFF_S * 2**row.attempts, URGENT_MOST_S if is_urgent else BACKOFF_MOST_S)
    outage = isinstance(error, TimeoutError) or (isinstance(error, AirbossError) and error.retryable)
    since = row.outcome.get("since", now)
    close_intent(
        session,
        intent_id,
        {
            "error": str(error) or type(error).__name__,
            "is_outage": outage,
            "is_capacity": isinstance(error, OSError) and not outage,
            "since": since,
            "retry_at": now + wait * random.uniform(0.7, 1.3),
        },
        done=False,
    )


def trouble(session: Session, row: Rollout, now: float) -> Trouble | None:
    """What stands in the way of the rollout's newest effects: one that fails, or one that was done and does not hold."""
    mine = select(Intent).where(Intent.rollout_id == row.id, col(Intent.kind).in_(("scale", "route")))
    for intent in session.exec(mine.where(Intent.state == IntentState.PENDING).order_by(col(Intent.id))):
        if intent.attempts and "error" in intent.outcome:
            says = f"{fx.from_json(intent.payload).says()}: {intent.outcome['error']}"
            return Trouble(intent.attempts, max(0.0, now - float(intent.outcome.get("since", now))),
                           bool(intent.outcome.get("is_outage")), says, bool(intent.outcome.get("is_capacity")))  # fmt: skip
    if row.state in (RolloutState.STEP_APPLYING, RolloutState.PROMOTING):
        again = mine.where(Intent.kind == "route", col(Intent.key).endswith(f"/{row.revision}", autoescape=True))
        for intent in session.exec(again):
            if intent.attempts > 1:
                says = f"{fx.from_json(intent.payload).says()} was set, and reads back otherwise"
                return Trouble(intent.attempts, now - intent.created_at, False, says)
    return None


def splits(session: Session, rollout_id: str) -> tuple[dict[str, int], ...]:
    """Every split of the traffic that the rollout has asked for, oldest first."""
    mine = select(Intent).where(Intent.rollout_id == rollout_id, Intent.kind == "route").order_by(col(Intent.id))
    found = [fx.from_json(intent.payload) for intent in session.exec(mine)]
    return tuple(effect.split for effect in found if isinstance(effect, fx.Route))
