"""Whose the records in a shared database are: one engine's, by a lease that it renews, with a token that fences the others.

The lease is one small fact in the store (`engine/lease`), written under the database's own clock: hosts' clocks differ. An
engine that lost it may still think it runs; each of its writes is refused, for the token in the row is another's.
"""

from __future__ import annotations

import json
import os
import socket
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

KEY = "engine/lease"
TTL_S = 15.0
"""A lease not renewed for so long may be taken: the engine that had it is dead, or cut off."""
RENEW_S = TTL_S / 3


@dataclass(frozen=True, slots=True)
class EngineLease:
    """Who holds the records, in words; by which token; until when, in Unix seconds of the database's clock."""

    holder: str
    place: str
    token: str
    ends_at: float

    def text(self) -> str:
        """As it stands in the store."""
        return json.dumps(asdict(self), sort_keys=True)


def mine(root: Path) -> EngineLease:
    """A lease for this process, not yet taken. `place` names the workspace: whoever holds its flock may take its lease over."""
    host = socket.gethostname()
    return EngineLease(f"{host} pid {os.getpid()} in {root}", f"{host}:{root}", uuid.uuid4().hex, 0.0)


def read(text: str | None) -> EngineLease | None:
    """The lease that a row says, None for none or one that nobody can read."""
    try:
        return EngineLease(**json.loads(text)) if text else None
    except (TypeError, ValueError):
        return None


def may_take(there: EngineLease | None, wanted: EngineLease, now: float) -> bool:
    """Whether `wanted` may stand in the row: it is free, run out, ours already, or a dead engine's of our own workspace."""
    return there is None or there.ends_at <= now or there.place == wanted.place
