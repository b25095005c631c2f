"""Objects are JSON trees; these are the few things done to every one of them."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from typing import Any

Obj = dict[str, Any]
_SAFE = "bcdfghjklmnpqrstvwxz2456789"


def copied(value: Any) -> Any:
    """A deep copy of a JSON tree."""
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, list):
        return [copied(item) for item in value]
    return value


def at(value: Any, *path: str | int, default: Any = None) -> Any:
    """What stands at `path`, or the default where a step is missing."""
    for step in path:
        if (isinstance(value, dict) and step in value) or (
            isinstance(value, list) and isinstance(step, int) and step < len(value)
        ):
            value = value[step]  # type: ignore[index]
        else:
            return default
    return default if value is None else value


def safe_name(count: int = 5) -> str:
    """Random letters that Kubernetes uses in the names it makes."""
    return "".join(secrets.choice(_SAFE) for _ in range(count))


def safe_hash(digest: bytes, count: int = 10) -> str:
    """Letters of a digest in the alphabet of pod-template-hash."""
    return "".join(_SAFE[byte % len(_SAFE)] for byte in digest[:count])


class Clock:
    """The server's time: the machine's plus what a test added, or standing still once frozen."""

    def __init__(self) -> None:
        self._added = timedelta()
        self._frozen: datetime | None = None

    def now(self) -> datetime:
        """The time now, with UTC."""
        return (self._frozen or datetime.now(UTC)) + self._added

    def freeze(self) -> None:
        """Move by `advance` alone from now on."""
        self._frozen = self._frozen or datetime.now(UTC)

    def advance(self, seconds: float) -> None:
        """Move the time forward."""
        self._added += timedelta(seconds=seconds)

    def stamp(self) -> str:
        """The time now as Kubernetes writes it."""
        return self.now().strftime("%Y-%m-%dT%H:%M:%SZ")

    def age_s(self, stamp: str) -> float:
        """Seconds since a stamp."""
        return (self.now() - datetime.fromisoformat(stamp.replace("Z", "+00:00"))).total_seconds()
