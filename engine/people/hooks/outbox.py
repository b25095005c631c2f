"""The outbox: deliveries made from the audit log, kept in the store until they were taken or given up.

Each hook has a cursor into the audit log. Cursor and deliveries move in one transaction, so that an engine killed at any
point loses no event and makes no delivery twice; one that was sent and not yet recorded is sent again under the same id.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any

from sqlmodel import Session, col, func, select

from state.hook_config import Hook
from state.models import Audit, HookDelivery, KeyValue, Rollout

PENDING, DONE, FAILED, DROPPED = "pending", "done", "failed", "dropped"
MOST_PENDING = 500
"""More than these waiting for one hook: the oldest are dropped, and say so."""
KEPT = 200
"""So many settled deliveries a hook are kept to be looked at."""
AT_ONCE = 200
"""Audit rows looked at in one transaction."""
GIVE_UP_S = 24 * 3600.0
TEST = "hook.test"


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event for one hook, ready to be sent."""

    id: int
    hook: str
    delivery_id: str
    event: str
    body: str
    attempts: int
    next_at: float
    created_at: float


def backoff_s(attempts: int) -> float:
    """How long a delivery waits after its `attempts`-th failed try: 5 s, doubling, at most an hour."""
    return min(5.0 * 2.0 ** max(0, attempts - 1), 3600.0)


def newest(session: Session) -> int:
    """The newest audit row."""
    return session.exec(select(func.max(Audit.id))).one() or 0


def collect(session: Session, hooks: Mapping[str, Hook], workspace: str) -> int:
    """Make deliveries of what the audit log has gained; returns how many. A hook that is new begins with what comes."""
    now, made, last = time.time(), 0, newest(session)
    for name, hook in hooks.items():
        cursor = session.get(KeyValue, f"hook/{name}/after")
        if cursor is None:
            session.add(KeyValue(key=f"hook/{name}/after", value=str(last)))
            continue
        rows = session.exec(
            select(Audit).where(col(Audit.id) > int(cursor.value)).order_by(col(Audit.id)).limit(AT_ONCE)
        )
        for row in rows.all():
            cursor.value = str(row.id)
            if row.action == TEST:  # it has its own delivery, to its own hook
                continue
            if now - row.at > GIVE_UP_S:  # a hook that was away for long, or an engine that was: no flood of old news
                continue
            rollout = _rollout_of(session, row)
            if wants(hook, row.action, _env_of(row, rollout)):
                add(session, name, row.action, row.ref, _body(row, rollout, workspace), now)
                made += 1
        session.add(cursor)
        _bound(session, name, now)
    return made


def is_collected(session: Session, hooks: Sequence[str], up_to: int) -> bool:
    """Whether every hook's cursor has come to the audit row `up_to`."""
    cursors = [session.get(KeyValue, f"hook/{name}/after") for name in hooks]
    return all(cursor is not None and int(cursor.value) >= up_to for cursor in cursors)


def wants(hook: Hook, event: str, env: str) -> bool:
    """Whether a hook is told of an event in an environment ("" when it is in none)."""
    return any(fnmatchcase(event, pattern) for pattern in hook.events) and (
        not hook.environments or env in hook.environments
    )


def add(session: Session, hook: str, event: str, ref: str, body: Mapping[str, Any], now: float) -> int:
    """Put one delivery into the outbox; returns its number."""
    row = HookDelivery(hook=hook, delivery_id=f"msg_{secrets.token_hex(12)}", event=event, ref=ref, body=json.dumps(body),
                       state=PENDING, next_at=now, created_at=now)  # fmt: skip
    session.add(row)
    session.flush()
    assert row.id is not None
    return row.id


def test_body(hook: str, actor: str, workspace: str) -> dict[str, Any]:
    """What `hook test` sends."""
    return {
        "type": TEST,
        "timestamp": _rfc3339(time.time()),
        "workspace": workspace,
        "data": {"hook": hook, "actor": actor},
    }


def _rollout_of(session: Session, row: Audit) -> Rollout | None:
    kind, _, name = row.ref.partition(":")
    return session.get(Rollout, name) if kind == "rollout" else None


def _env_of(row: Audit, rollout: Rollout | None) -> str:
    if rollout is not None:
        return rollout.env
    return row.ref.removeprefix("env:") if row.ref.startswith("env:") else str(row.detail.get("env", ""))


def _body(row: Audit, rollout: Rollout | None, workspace: str) -> dict[str, Any]:
    data: dict[str, Any] = {"audit_id": row.id, "actor": row.actor, "ref": row.ref, "reason": row.reason,
                            "detail": row.detail}  # fmt: skip
    if rollout is not None:
        data["rollout"] = {
            "id": rollout.id, "service": rollout.service, "env": rollout.env, "from_release": rollout.from_release,
            "to_release": rollout.to_release, "created_by": rollout.created_by,
        }  # fmt: skip
    return {"type": row.action, "timestamp": _rfc3339(row.at), "workspace": workspace, "data": data}


def _rfc3339(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _bound(session: Session, hook: str, now: float) -> None:
    """Keep no more than MOST_PENDING waiting and KEPT settled."""
    query = select(HookDelivery).where(HookDelivery.hook == hook)
    waiting = query.where(HookDelivery.state == PENDING).order_by(col(HookDelivery.id).desc())
    for row in session.exec(waiting.offset(MOST_PENDING)).all():
        row.state, row.done_at, row.error = DROPPED, now, f"more than {MOST_PENDING} waited for this hook"
        session.add(row)
    settled = query.where(HookDelivery.state != PENDING).order_by(col(HookDelivery.id).desc())
    for row in session.exec(settled.offset(KEPT)).all():
        session.delete(row)


def heads(session: Session, hooks: Sequence[str], now: float) -> tuple[Delivery, ...]:
    """The oldest waiting delivery of each hook, where it is due: a hook is told in order."""
    found = []
    for name in hooks:
        query = select(HookDelivery).where(HookDelivery.hook == name, HookDelivery.state == PENDING)
        row = session.exec(query.order_by(col(HookDelivery.id)).limit(1)).first()
        if row is not None and row.id is not None and row.next_at <= now:
            found.append(Delivery(row.id, row.hook, row.delivery_id, row.event, row.body, row.attempts, row.next_at,
                                  row.created_at))  # fmt: skip
    return tuple(found)


def settle(session: Session, number: int, error: str, now: float) -> None:
    """Write down how a try went; `error` is empty when it was taken."""
    row = session.get(HookDelivery, number)
    if row is None:  # it was dropped for later ones while it went out
        return
    row.attempts, row.error = row.attempts + 1, error
    if not error:
        row.state, row.done_at = DONE, now
    elif row.event == TEST or now - row.created_at > GIVE_UP_S:
        row.state, row.done_at = FAILED, now
    else:
        row.next_at = now + backoff_s(row.attempts)
    session.add(row)


def again(session: Session, number: int, now: float) -> HookDelivery | None:
    """Let a delivery be tried again, now, under the id it had; None when there is none."""
    row = session.get(HookDelivery, number)
    if row is not None and row.state != DONE:
        row.state, row.next_at, row.created_at, row.done_at = PENDING, now, now, None
        session.add(row)
    return row
