"""Two releases beside each other, field by field; and which two are meant. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from console.rows import first_of
from console.tui.page import panel
from console.tui.scene import Item
from console.tui.table import Column, Row, table_lines
from console.tui.text import Line, line, number
from engine.api.schemas import FleetRow, ReleaseView, ReplicaView, RolloutView, Snapshot

_SKIPPED = frozenset({"id", "created_at", "created_by", "live_in"})
_PARTS = {"metrics": "metrics", "training": "parameters", "serving": "configuration"}


def pair_of(item: Item, snapshot: Snapshot) -> tuple[str, str] | str:
    """The two releases that an object is about, the older first; else why there are not two."""
    if isinstance(item, RolloutView):
        if item.from_release is None:
            return f"{item.id} replaces nothing: there is no release to compare with"
        return item.from_release, item.to_release
    if isinstance(item, FleetRow):
        serving = list(dict.fromkeys(track.release_id for track in item.tracks))
        if len(serving) > 1:
            return serving[0], serving[1]
        rollout = next((r for r in snapshot.rollouts if r.id == item.rollout_id), None)
        if rollout is not None and rollout.from_release:
            return rollout.from_release, rollout.to_release
        return f"{item.service} in {item.env} has one release; = on two in the list of releases (4) compares them"
    return "= compares releases: on a rollout, a service, or two in the list of releases"


def release_of(item: Item) -> str:
    """The release that an object is, or serves; "" for others."""
    if isinstance(item, ReleaseView):
        return item.id
    return item.release_id if isinstance(item, ReplicaView) else ""


def find_release(name: str, snapshot: Snapshot) -> ReleaseView | None:
    """A release of the snapshot."""
    return first_of(snapshot.releases, name, lambda release: release.id == name)


def differences(before: ReleaseView, after: ReleaseView) -> list[tuple[str, str, str, str]]:
    """(part, field, before, after) of each field that is not the same."""
    old, new = _fields(before), _fields(after)
    return [
        (*key, old.get(key, "—"), new.get(key, "—"))
        for key in dict.fromkeys((*old, *new))
        if old.get(key) != new.get(key)
    ]


def compare_page(before: ReleaseView, after: ReleaseView, width: int) -> list[Line]:
    """What changed, a panel a part; what is the same is counted."""
    found = differences(before, after)
    same = len({*_fields(before), *_fields(after)}) - len(found)
    lines = [
        line((f"{before.id} → {after.id}", "title"), (f"   {before.service}", "dim")),
        line((f"{len(found)} fields differ, {same} are the same", "dim")),
        (),
    ]
    for part in dict.fromkeys(row[0] for row in found):
        rows = [_row(*row[1:]) for row in found if row[0] == part]
        columns = (
            Column("FIELD", 14, most=40), Column(before.id, 10, most=44), Column(after.id, 10, most=44), Column("CHANGE", 8, ">", keep=1)
        )  # fmt: skip
        lines += panel(part, table_lines(columns, rows, width - 4), width)
    return lines


def _row(name: str, before: str, after: str) -> Row:
    try:
        change = float(after) - float(before)
        moved = f"{'+' if change > 0 else ''}{number(change)}"
    except ValueError:
        moved = ""
    return Row(name, (line(name), line((before, "dim")), line((after, "accent")), line((moved, "info"))))


def _fields(release: ReleaseView) -> dict[tuple[str, str], str]:
    found: dict[tuple[str, str], str] = {}
    for name, value in release.model_dump().items():
        if name in _PARTS:
            found |= {(_PARTS[name], key): text for key, text in _flat("", value)}
        elif name not in _SKIPPED:
            found[("what it is made of", name.replace("_", " "))] = "—" if value in (None, "") else str(value)
    return found


def _flat(prefix: str, value: Any) -> list[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        return [pair for key, inner in value.items() for pair in _flat(f"{prefix}{key}.", inner)]
    return [(prefix.rstrip("."), f"{value:.6g}" if isinstance(value, float) else str(value))]
