"""Names of records: a prefix and a number that only rises."""

from __future__ import annotations

from sqlmodel import Session

from state.models import KeyValue


def next_id(session: Session, prefix: str) -> str:
    """The next free name with `prefix`: `run-4`, `ro-2`, `charlm-3`. Never given twice, even after a delete."""
    key = f"counter.{prefix}"
    row = session.get(KeyValue, key)
    number = int(row.value) + 1 if row else 1
    put(session, key, str(number))
    return f"{prefix}-{number}"


def put(session: Session, key: str, value: str) -> None:
    """Set the small fact `key`."""
    row = session.get(KeyValue, key)
    if row is None:
        session.add(KeyValue(key=key, value=value))
    else:
        row.value = value
        session.add(row)
    session.flush()


def get(session: Session, key: str, default: str = "") -> str:
    """The small fact `key`, or `default`."""
    row = session.get(KeyValue, key)
    return row.value if row else default
