"""Services whose traffic is served as it is since a restore, until a person decides: what the store keeps of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlmodel import Session

from state import ids

LEFT_ALONE_KEY = "restored.left_alone"


@dataclass(frozen=True, slots=True)
class LeftAlone:
    """A service whose traffic is served as it is since a restore, as long as its record says no more than `recorded`."""

    recorded: Mapping[str, int]
    """Release → percent in the restored record."""
    route: Mapping[str, Any]
    """What the gateway had."""


def left_alone(session: Session) -> dict[str, Any]:
    """`SERVICE@ENV` → what the store keeps of a service that is left alone since a restore."""
    return dict(json.loads(ids.get(session, LEFT_ALONE_KEY, "{}")))


def end_left_alone(session: Session, service: str, env: str) -> list[str]:
    """From now on the record is served. Returns what is left alone still."""
    left = left_alone(session)
    if left.pop(f"{service}@{env}", None) is not None:
        ids.put(session, LEFT_ALONE_KEY, json.dumps(left))
    return sorted(left)
