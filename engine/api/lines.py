"""The snapshot as lines, for consoles that look once a second: a head, then a line a row of each section that changed.

A section is what its rows are, so its tag is their digest: a console says which tags it has (`have=fleet:1f…,audit:9a…`) and is
sent no row of those again, whichever engine process it got them from. Rows are lines, so that a reader of ten thousand takes them
apart without decoding one. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b

from pydantic import BaseModel, ConfigDict

from engine.api.schemas import EventView, Snapshot, StatusView

MEDIA_TYPE = "application/x-ndjson"
SECTIONS = ("fleet", "rollouts", "runs", "releases", "alerts", "slos", "serving", "audit")


class SectionHead(BaseModel):
    """A section's tag and how many lines are its rows; None: those that are had already."""

    model_config = ConfigDict(defer_build=True)
    name: str
    tag: str
    rows: int | None


class Head(BaseModel):
    """The first line."""

    model_config = ConfigDict(defer_build=True)
    seq: int
    as_of: float
    status: StatusView
    sections: tuple[SectionHead, ...]


def snapshot_lines(snapshot: Snapshot, have: Mapping[str, str]) -> bytes:
    """The snapshot without the rows of sections whose tags are in `have`."""
    heads: list[SectionHead] = []
    lines: list[bytes] = []
    for name in SECTIONS:
        rows = [row.model_dump_json().encode() for row in getattr(snapshot, name)]
        tag = blake2b(b"\n".join(rows), digest_size=9).hexdigest()
        if have.get(name) == tag:
            heads.append(SectionHead(name=name, tag=tag, rows=None))
        else:
            heads.append(SectionHead(name=name, tag=tag, rows=len(rows)))
            lines += rows
    head = Head(seq=snapshot.seq, as_of=snapshot.as_of, status=snapshot.status, sections=tuple(heads))
    return b"\n".join([head.model_dump_json().encode(), *lines])


def event_lines(events: Iterable[EventView]) -> bytes:
    """Audit rows, a line each."""
    return b"\n".join(event.model_dump_json().encode() for event in events)


def tags_of(have: str) -> dict[str, str]:
    """The tags in a `have` parameter; what is not one is passed over, for it only spares sending."""
    pairs = (part.partition(":") for part in have.split(","))
    return {name: tag for name, _, tag in pairs if name in SECTIONS}
