"""What changed in the half hour before an alert: acts of people and of the engine, and processes that began. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from console.rows import Rows
from console.tui.page import panel
from console.tui.plan_lines import event_words
from console.tui.scene import Frame
from console.tui.table import Column, Row, table_lines
from console.tui.text import Line, clock, duration, line
from engine.api.schemas import AlertView, EventView, Snapshot

BEFORE_S = 1800.0
SHOWN = 14
LOOKED_AT = 500
"""Rollouts and processes: the newest, and as many as a paint has time for."""
_COLUMNS = (
    Column("UTC", 8),
    Column("BEFORE", 9, ">"),
    Column("WHO", 6, most=20),
    Column("WHAT", 10, most=28),
    Column("ON", 8, most=28),
    Column("WHY AND HOW", 8, most=200, flex=True, keep=1),
)


def before_panel(alert: AlertView, frame: Frame, width: int) -> list[Line]:
    """The changes in their frame, from what the snapshot has and what was fetched beside it."""
    is_log = frame.interest is not None and frame.interest.kind == "audit" and isinstance(frame.extra, Rows)
    newest_first = (
        frame.extra if is_log and isinstance(frame.extra, Rows) else sorted(frame.snapshot.audit, key=lambda e: -e.id)
    )
    rows: list[EventView] = []
    for event in newest_first:
        rows.append(event)
        if event.at < alert.starts_at - BEFORE_S:
            break  # a hundred thousand older ones are not looked at
    title = f"what changed in the half hour before {clock(alert.starts_at)} UTC"
    return panel(title, before_lines(alert, frame.snapshot, rows, width - 4), width)


def before_lines(alert: AlertView, snapshot: Snapshot, audit: Sequence[EventView], width: int) -> list[Line]:
    """The changes, newest first, those of the alert's own service in full tone. `audit`: rows that are known, in any order."""
    begin = alert.starts_at - BEFORE_S
    own = {f"service:{alert.service}", f"service:{alert.service}@{alert.env}", f"env:{alert.env}"}
    own |= {
        f"rollout:{r.id}"
        for r in islice(snapshot.rollouts, LOOKED_AT)
        if (r.service, r.env) == (alert.service, alert.env)
    }
    found = [
        (e.at, e.actor, e.action, e.ref.replace(":", "/", 1), event_words(e), e.ref.replace("/", ":", 1) in own)
        for e in audit
        if begin <= e.at <= alert.starts_at and not e.action.startswith("alert.")
    ]
    found += [
        (p.started_at, "system:engine", "process begins", p.spawn_id, " ".join(filter(None, (p.service, p.release_id, p.detail))),
         p.service == alert.service)
        for p in islice(snapshot.serving, LOOKED_AT)
        if begin <= p.started_at <= alert.starts_at
    ]  # fmt: skip
    lines: list[Line] = []
    if audit and min(e.id for e in audit) > 1 and min(e.at for e in audit) > begin:
        lines.append(line(("older acts are not shown here: 8 has them all", "warn")))
    if not found:
        return [*lines, line(("nothing that the engine did, or was asked to do", "dim"))]
    ordered = sorted(found, key=lambda one: -one[0])
    rows = [
        Row(
            str(n),
            (
                line((clock(at), "dim")),
                line((duration(alert.starts_at - at), "dim")),
                line((actor, "accent" if actor.startswith("user:") else "dim")),
                line((action, "strong" if is_own else "")),
                line((ref, "" if is_own else "dim")),
                line((words, "dim")),
            ),
        )
        for n, (at, actor, action, ref, words, is_own) in enumerate(ordered[:SHOWN])
    ]
    lines += table_lines(_COLUMNS, rows, width)
    if len(ordered) > SHOWN:
        lines.append(line((f"and {len(ordered) - SHOWN} more: 8 has them all", "dim")))
    return lines
