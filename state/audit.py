"""The audit log: append-only, hash-chained. Row n stores sha256(row n−1's hash ‖ canonical JSON of row n)."""

from __future__ import annotations

import os
import syslog
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import select as columns
from sqlmodel import Session, col, select

from state.chain import COLUMNS, GENESIS, ChainState, link, walk
from state.models import Audit

HEAD_KEY = "audit_head"
"""In `session.info`: the hash of the last row this transaction appended."""
PREV_KEY = "audit_prev"
"""In `session.info`: what the first row this transaction appended follows."""
_COLUMNS = columns(*(getattr(Audit, name) for name in COLUMNS))
"""A million rows are walked as plain values: as objects they take three times as long."""


def append(
    session: Session,
    *,
    actor: str,
    action: str,
    ref: str,
    reason: str = "",
    detail: Mapping[str, Any] | None = None,
    at: float | None = None,
) -> str:
    """Add a row to the chain inside the caller's transaction; returns its hash."""
    prev = session.info.get(HEAD_KEY) or _last_hash(session)
    row = Audit(
        at=time.time() if at is None else at,
        actor=actor,
        action=action,
        ref=ref,
        # Text in PostgreSQL holds no NUL, and what is hashed must be what is kept.
        reason=reason.replace("\0", "\ufffd"),
        detail=dict(detail or {}),
        prev=prev,
        hash="",
    )
    row.hash = row_hash(row)
    session.add(row)
    session.flush()
    session.info.setdefault(PREV_KEY, prev)
    session.info[HEAD_KEY] = row.hash
    return row.hash


def row_hash(row: Audit) -> str:
    """The hash a row must have after the one it names."""
    return link(row.prev, row.model_dump())


def verify(session: Session, anchor_path: Path | None = None) -> ChainState:
    """Walk the whole chain; with `anchor_path`, also demand that the head written there is part of it."""
    # The anchor first: one written after the walk began names a row that the walk does not see.
    anchored = anchored_head(anchor_path) if anchor_path is not None else ""
    rows = session.execute(_COLUMNS.order_by(col(Audit.id))).yield_per(1000).mappings()
    return walk(map(dict, rows), anchored, anchor_path.name if anchor_path is not None else "")


def page(session: Session, after: int, limit: int) -> list[dict[str, Any]]:
    """At most `limit` rows after the row `after`, oldest first, as `chain.Walk` takes them."""
    query = _COLUMNS.where(col(Audit.id) > after).order_by(col(Audit.id)).limit(limit)
    return [dict(row) for row in session.execute(query).mappings()]


def newest_page(session: Session, limit: int) -> list[dict[str, Any]]:
    """The newest rows, oldest first."""
    rows = session.execute(_COLUMNS.order_by(col(Audit.id).desc()).limit(limit)).mappings()
    return [dict(row) for row in rows][::-1]


def head(session: Session) -> str:
    """The hash of the newest row."""
    return _last_hash(session)


def contains(session: Session, hash_: str) -> bool:
    """Whether a row of the chain has this hash; walks the table."""
    return session.exec(select(Audit.id).where(Audit.hash == hash_).limit(1)).first() is not None


def anchored_head(path: Path) -> str:
    """The head written at `path`, "" when none is."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        return ""


def anchor(path: Path, head_: str, *, prev: str, is_in_chain: Callable[[str], bool]) -> str:
    """Write the committed head beside the store and to the system log; returns why the file was left alone, or "".

    `prev` is what the transaction's first row follows. An anchor that is neither that nor, by `is_in_chain`, an older
    row (a crash between commit and anchor leaves one) is the only trace of a tail cut off, and stays. Raises OSError.
    """
    syslog.syslog(syslog.LOG_INFO, f"airboss audit head {head_}")
    anchored = anchored_head(path)
    if anchored and anchored != prev and not is_in_chain(anchored):
        return (
            f"rows were cut off the audit log: the head {anchored[:16]} anchored in {path} is not in the chain; "
            f"the file is left as it is; look into it, then move it away to anchor anew"
        )
    aside = path.with_name(f".{path.name}.new")
    aside.write_text(head_ + "\n", encoding="ascii")
    os.replace(aside, path)
    return ""


def _last_hash(session: Session) -> str:
    found = session.exec(select(Audit.hash).order_by(col(Audit.id).desc()).limit(1)).first()
    return found or GENESIS
