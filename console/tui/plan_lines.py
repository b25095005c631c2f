"""Plans and events in words, wherever they are shown. Pure."""

from __future__ import annotations

from console.tui.signs import words
from console.tui.table import Column, Row, table_lines
from console.tui.text import NOTHING, Line, duration, line, number, wrap
from engine.api.schemas import EventView, PlanView


def plan_lines(plan: PlanView, width: int) -> list[Line]:
    """A plan as `object field  before → after` lines, its warnings and its duration."""
    columns = (
        Column("", 8, most=36),
        Column("", 4, most=20),
        Column("", 1, ">", most=28),
        Column("", 1),
        Column("", 4, most=40, flex=True),
    )
    rows = [
        Row(
            str(i),
            (
                line((p.object, "strong")),
                line((p.field, "dim")),
                line((p.before or NOTHING, "dim")),
                line(("→", "dim")),
                line((p.after, "accent")),
            ),
        )
        for i, p in enumerate(plan.lines)
    ]
    lines = (
        table_lines(columns, rows, width)[1:] if rows else [line(("no list of changes: the verb is the change", "dim"))]
    )
    for warning in plan.warnings:
        lines += [
            line(("! " if i == 0 else "  ", "warn"), *row) for i, row in enumerate(wrap(warning, width - 2, "warn"))
        ]
    if plan.expected_s is not None:
        lines.append(line((f"takes about {duration(plan.expected_s)}", "dim")))
    return lines


def event_words(event: EventView) -> str:
    """An event's reason and details in one line."""
    message = str(event.detail.get("message") or "")
    details = ", ".join(
        f"{words(k)} {number(v)}"
        for k, v in event.detail.items()
        if k != "message" and v not in (None, "") and not isinstance(v, dict | list)
    )
    return " · ".join(part for part in (event.reason, message, details) if part)
