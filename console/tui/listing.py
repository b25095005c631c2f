"""A list view as a value: its columns, which objects it shows, and how one of them becomes a row. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from console.tui.scene import Frame, Scope
from console.tui.table import Column, Row

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """One list view. `row` is called for what is on screen, and for what a filter has to look at."""

    view: str
    columns: tuple[Column, ...]
    objects: Callable[[Frame, Scope], Sequence[T]]
    key: Callable[[T], str]
    row: Callable[[T, float], Row]
    empty: str
    """What an empty view says, and what one would do about it."""

    def admits(self, item: T, now: float, scope: Scope) -> bool:
        """Whether the scope's environment and filter let this object be seen."""
        if scope.env is not None and getattr(item, "env", scope.env) not in (scope.env, ""):
            return False
        return not scope.filter or scope.admits(self.row(item, now).text)
