"""What replicas wait for that is their place's to give: room, a quota, an image. It is no fault of a release's."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class SaysLacking(Protocol):
    """A runtime whose place may not have what replicas need."""

    def lacks(self, service: str, env: str, release_id: str) -> str | None:
        """What the release's replicas wait for, in the place's own words; None for nothing."""


def lacking(runtime: object, service: str, env: str, release_id: str) -> str:
    """What the release's replicas wait for there; "" for nothing, and where nobody says so."""
    return (runtime.lacks(service, env, release_id) or "") if isinstance(runtime, SaysLacking) else ""
