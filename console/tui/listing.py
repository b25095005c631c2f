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

    def items(self, frame: Frame, scope: Scope) -> list[T]:
        """The objects that the scope admits, in their order."""
        objects = self.objects(frame, scope)
        if scope.env is not None:
            objects = [o for o in objects if getattr(o, "env", scope.env) in (scope.env, "")]
        if not scope.filter:
            return list(objects)
        return [o for o in objects if scope.admits(self.row(o, frame.snapshot.as_of).text)]
