"""Which objects of a list a scope lets be seen, found in slices: nobody waits for ten thousand to be looked through."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from console.rows import Rows
from console.tui.listing import Listing
from console.tui.scene import Frame, Scope

AT_ONCE = 500
"""As many are looked through whole at each look; of more only those that were not seen yet."""
SLICE_S = 0.02


class Narrowing:
    """The objects of one list under its scope."""

    def __init__(self, listing: Listing[Any]) -> None:
        self._listing = listing
        self._scope = Scope()
        self._source: Sequence[Any] = ()
        self._at = 0
        self._places: list[int] = []
        self._shown: Sequence[Any] = ()
        self._known: dict[bytes, bool] = {}
        """Rows that were judged under this scope already, by their JSON."""

    @property
    def is_over(self) -> bool:
        """All of them have been looked at."""
        return self._at >= len(self._source)

    def of(self, frame: Frame, scope: Scope) -> Sequence[Any]:
        """Those that may be seen, in their order, as far as has been looked; `go_on` looks further."""
        objects, now = self._listing.objects(frame, scope), frame.snapshot.as_of
        has_env = not isinstance(objects, Rows) or "env" in objects.model.model_fields
        if not scope.filter and (scope.env is None or not has_env):
            self._source, self._at = (), 0
            return objects
        if len(objects) <= AT_ONCE:
            self._source, self._at = (), 0
            return [item for item in objects if self._listing.admits(item, now, scope)]
        if scope != self._scope:
            self._scope = scope
            self._known.clear()
        elif objects is self._source:
            return self._shown
        self._source, self._at, self._places = objects, 0, []
        self.go_on(now)
        return self._shown

    def go_on(self, now: float) -> None:
        """Look through more of them, for `SLICE_S` at most."""
        source, count = self._source, len(self._source)
        end = time.monotonic() + SLICE_S
        while self._at < count and time.monotonic() < end:
            upto = min(self._at + 25, count)
            self._places += [at for at in range(self._at, upto) if self._is_seen(at, now)]
            self._at = upto
        self._shown = (
            source.only(self._places) if isinstance(source, Rows) else [source[place] for place in self._places]
        )

    def _is_seen(self, at: int, now: float) -> bool:
        source = self._source
        if not isinstance(source, Rows):
            return self._listing.admits(source[at], now, self._scope)
        line = source.lines[at]
        seen = self._known.get(line)
        if seen is None:
            seen = self._known[line] = self._listing.admits(source[at], now, self._scope)
        return seen
