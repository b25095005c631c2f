"""Rows as they came over the wire: each becomes an object when it is looked at, so ten thousand cost what is on screen."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar, overload

from pydantic import BaseModel

from console.wire import alien, read
from engine.api.lines import SECTIONS, Head
from engine.api.schemas import (
    AlertView,
    EventView,
    FleetRow,
    ReleaseView,
    ReplicaView,
    RolloutView,
    RunView,
    SloView,
    Snapshot,
)

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")
KEPT = 1024
"""Objects that a list of rows keeps; one that is looked at again after that many others is made again."""
MODELS: dict[str, type[BaseModel]] = dict(
    zip(
        SECTIONS, (FleetRow, RolloutView, RunView, ReleaseView, AlertView, SloView, ReplicaView, EventView), strict=True
    )
)


class Rows(Sequence[M], Generic[M]):
    """A sequence of frozen models behind their JSON. Looking at one raises OperationFailed if it is not of its model."""

    __slots__ = ("_count", "_lines", "_made", "_packed", "model")

    def __init__(self, model: type[M], lines: list[bytes]) -> None:
        self.model = model
        self._lines: list[bytes] | None = lines
        self._count = len(lines)
        self._packed = b""
        self._made: dict[int, M] = {}

    @property
    def lines(self) -> list[bytes]:
        """Each row's JSON."""
        if self._lines is None:
            self._lines = zlib.decompress(self._packed).split(b"\n") if self._count else []
            self._packed = b""
        return self._lines

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> M: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[M]: ...
    def __getitem__(self, index: int | slice) -> M | Sequence[M]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._count))]
        place = index + self._count if index < 0 else index
        if not 0 <= place < self._count:
            raise IndexError(index)
        found = self._made.get(place)
        if found is None:
            found = read(self.model, self.lines[place])
            if len(self._made) >= KEPT:
                self._made.pop(next(iter(self._made)))
            self._made[place] = found
        return found

    def __iter__(self) -> Iterator[M]:
        return (self[i] for i in range(self._count))

    def only(self, places: Sequence[int]) -> Rows[M]:
        """Those at these places."""
        lines = self.lines
        return Rows(self.model, [lines[place] for place in places])

    def rest(self) -> None:
        """Take little room: nobody looks at these rows for now."""
        self._made.clear()
        if self._lines is not None and self._count:
            self._packed, self._lines = zlib.compress(b"\n".join(self._lines), 1), None

    def place_of(self, key: str, key_of: Callable[[M], str], near: int = 0) -> int | None:
        """The place of the row with this key, looked for from `near` outwards.

        Only rows that have the key's first part in their JSON are made.
        """
        part = key.split("\0")[0]
        needle = f":{json.dumps(part, ensure_ascii=False)}".encode()
        number = f":{part},".encode() if part.isdigit() else needle
        lines = self.lines
        for place in _outwards(near, self._count):
            line = lines[place]
            if (needle in line or number in line) and key_of(self[place]) == key:
                return place
        return None


def first_of(rows: Sequence[T], name: str, is_it: Callable[[T], bool]) -> T | None:
    """The first row that `is_it`, where such a row has `name` as one of its fields."""
    if isinstance(rows, Rows):
        place = rows.place_of(name, lambda row: name if is_it(row) else "")
        return None if place is None else rows[place]
    return next((row for row in rows if is_it(row)), None)


def _outwards(near: int, count: int) -> Iterator[int]:
    near = max(0, min(near, count - 1))
    for distance in range(count):
        if near + distance < count:
            yield near + distance
        if distance and near - distance >= 0:
            yield near - distance


class Known:
    """What was read of an engine's snapshots: the sections' tags and rows, so that only what changed is asked for."""

    def __init__(self) -> None:
        self._tags: dict[str, str] = {}
        self._rows: dict[str, Rows[Any]] = {}

    @property
    def have(self) -> str:
        """What to tell the engine."""
        return ",".join(f"{name}:{tag}" for name, tag in self._tags.items())

    def read(self, body: bytes) -> Snapshot:
        """The snapshot that lines make with what was known. Raises OperationFailed for what is none."""
        first, _, rest = body.partition(b"\n")
        lines = rest.split(b"\n") if rest else []
        head = read(Head, first)
        at = 0
        for section in head.sections:
            if section.name not in MODELS:
                at += section.rows or 0
            elif section.rows is not None:
                self._rows[section.name] = Rows(MODELS[section.name], lines[at : at + section.rows])
                self._tags[section.name] = section.tag
                at += section.rows
        if at != len(lines) or set(self._rows) != set(MODELS):
            raise alien(ValueError(f"{len(lines)} rows came where {at} were said"))
        values: dict[str, Any] = {"seq": head.seq, "as_of": head.as_of, "status": head.status, **self._rows}
        return Snapshot.model_construct(**values)
