"""Where a view's facts come from: the engine, or, when there is none, the store itself, read-only."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from state.words import TERMINAL_STATES, Unreachable

if TYPE_CHECKING:
    from console.commands.context import Context
    from console.offline import OfflineStore

LONG_S = 600.0
"""For an answer that takes as long as the history is."""


class Source:
    """Answers the engine's read paths. Falls back once, for good, and says so in `notes`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._offline: OfflineStore | None = None
        self.notes: list[str] = []

    @property
    def is_offline(self) -> bool:
        """The store answered in the engine's place."""
        return self._offline is not None

    def get(self, path: str, params: Mapping[str, Any] | None = None, timeout_s: float | None = None) -> Any:
        """The JSON at `path`; `timeout_s` where the answer takes long to find. Raises Unreachable when neither engine nor store can say."""
        if self._offline is None:
            try:
                return self._context.get(path, params, timeout_s)
            except Unreachable as error:
                self._fall_back(error)
        assert self._offline is not None
        return self._offline.get(path, params or {})

    def rollouts(self, service: str | None, env: str | None, *, is_active: bool) -> list[Any]:
        """The rollouts of a service or of all, those that are not over alone when `is_active`."""
        items = self.get("/v1/rollouts", {"service": service, "env": env})
        over = {state.value for state in TERMINAL_STATES}
        return [item for item in items if not (is_active and item["state"] in over)]

    def _fall_back(self, error: Unreachable) -> None:
        from console.offline import OfflineStore
        from console.offline_file import has_store

        if self._context.engine_url or not has_store(self._context.paths):
            raise error
        self._offline = OfflineStore.open(self._context.paths)
        place = "" if self._offline.name == str(self._context.paths.store) else f" ({self._offline.name})"
        self.notes.append(
            f"no engine answers; read from the store{place} at {time.strftime('%H:%M:%SZ', time.gmtime())}"
        )
