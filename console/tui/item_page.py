"""Any object described whole: its fields, what is nested in them, and for some a drawing. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from console.tui.acts import ref_of
from console.tui.fleet_rows import budget
from console.tui.page import facts, panel
from console.tui.record_rows import window_order
from console.tui.scene import Item
from console.tui.text import NOTHING, Line, bar, count, line, millis, number, percent, stamp
from engine.api.schemas import EventView, ReplicaView, SloView

_TIMES = ("_at", "_since", "_until", "at")
_SKIPPED = frozenset({"refusals", "promote_plan", "rollback_plan", "events", "rate_series", "course"})


def item_page(item: Item, width: int) -> list[Line]:
    """Every field of an object, grouped: its own first, then a panel for each that holds others."""
    data = item.model_dump()
    own: list[tuple[str, str | Line]] = []
    groups: list[tuple[str, list[tuple[str, str | Line]]]] = []
    for name, value in data.items():
        if name in _SKIPPED:
            continue
        if isinstance(value, Mapping | list | tuple | BaseModel) and value:
            groups.append((name, flatten(value)))
        else:
            own.append((label(name), shown(name, value)))
    if isinstance(item, SloView):
        own = slo_facts(item)
    lines = panel(heading(item), facts(own, width - 4), width)
    if isinstance(item, SloView):
        lines += panel(
            "burn rate by window: 1× spends the budget exactly over its window", burn_bars(item, width - 4), width
        )
    for name, pairs in groups:
        if not (name == "burn" and isinstance(item, SloView)):
            lines += panel(label(name), facts(pairs, width - 4), width)
    refused = data.get("refusals") or {}
    if refused:
        lines += panel("what may not run now, and why", facts(list(refused.items()), width - 4), width)
    return lines


def heading(item: Item) -> str:
    """What the page is about."""
    if isinstance(item, ReplicaView):
        return f"{item.kind} process {item.spawn_id}"
    return f"audit row {item.id} on {item.ref}" if isinstance(item, EventView) else ref_of(item)


def slo_facts(slo: SloView) -> list[tuple[str, str | Line]]:
    """What is promised, and how it stands."""
    allowed = (1 - slo.availability / 100) * slo.requests
    left = line((bar(slo.budget_left, 30), budget(slo.budget_left)[0][1]), "  ", *budget(slo.budget_left))
    return [
        (
            "promised",
            f"{slo.availability:g} % of requests answered well, 95 % of them within {millis(slo.latency_p95_ms)},"
            f" over {slo.window_d:g} days",
        ),
        ("kept so far", f"{percent(slo.sli)} of {count(slo.requests)} requests"),
        ("bad requests", f"{count(slo.errors)}; {count(allowed)} would use the whole budget for these requests"),
        ("budget left", left),
        ("evidence", f"covers {percent(slo.coverage, 0)} of the window"),
    ]


def label(name: str) -> str:
    """A field's name as words."""
    return name.replace("_", " ")


def shown(name: str, value: Any) -> str:
    """A field's value as words; times in UTC."""
    if value is None or value == "":
        return NOTHING
    if isinstance(value, float) and name.endswith(_TIMES) and value > 1e8:
        return f"{stamp(value)} UTC"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value) if not isinstance(value, Mapping | list | tuple) else NOTHING


def flatten(value: Any, prefix: str = "") -> list[tuple[str, str | Line]]:
    """Nested values as `outer.inner` and value, in order."""
    if isinstance(value, Mapping):
        pairs = [(str(k), v) for k, v in value.items()]
    else:
        pairs = [(str(i + 1), v) for i, v in enumerate(value)]
    found: list[tuple[str, str | Line]] = []
    for key, inner in pairs:
        path = f"{prefix}.{key}" if prefix else key
        if isinstance(inner, Mapping | list | tuple) and inner:
            found += flatten(inner, path)
        else:
            found.append((path, shown(key, inner)))
    return found


def burn_bars(slo: SloView, width: int) -> list[Line]:
    """A bar for each window, full at twenty times the even rate."""
    lines = []
    for window in sorted(slo.burn, key=window_order):
        value = slo.burn[window]
        tone = "dim" if value is None or value <= 1 else "warn" if value < 6 else "bad"
        text = "no evidence" if value is None else f"{value:.2f}×"
        lines.append(
            line(
                (f"{window:>5}  ", "dim"),
                (bar(None if value is None else value / 20, min(50, width - 20)), tone),
                f"  {text}",
            )
        )
    return lines
