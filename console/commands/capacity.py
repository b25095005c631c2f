"""Capacity advice, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from console.commands.format import milliseconds, number, percent
from console.output import Block, Facts, Outcome, Text

Item = Mapping[str, Any]


def capacity(rows: Sequence[Item]) -> Outcome:
    """What each environment's load needs, with the window it was measured over."""
    names = [f"service/{r['service']}@{r['env']}" for r in rows]
    blocks: list[Block] = [Facts(_facts(row)) for row in rows]
    if not rows:
        blocks.append(Text("served nowhere"))
    return Outcome("Capacity", list(rows), blocks=blocks, names=names)


def _facts(row: Item) -> tuple[tuple[str, str], ...]:
    place = ("service", f"{row['service']} in {row['env']}")
    how = "set by the autoscaler" if row["autoscaled"] else "as configured"
    there = ("replicas", f"{row['replicas']} ready of {row['wanted']}, {how}; {row['concurrency']} at once each")
    if row["arrival_rate"] is None:
        return place, there, ("measured", f"no request ended in the {row['window_s']:.0f} s that were seen")
    head = row["headroom_rps"]
    return (
        place,
        there,
        ("measured", f"{row['requests']} requests over {row['window_s']:.0f} s"),
        ("arrivals", f"{number(row['arrival_rate'])} requests/s"),
        (
            "time in service",
            f"{milliseconds(row['service_time_s'] * 1000)}, {milliseconds(row['wait_s'] * 1000)} in a queue",
        ),
        ("in service", f"{number(row['in_service'])} at once on average (L = arrivals x time)"),
        ("in use", f"{percent(row['utilisation'], 0)} of {row['replicas'] * row['concurrency']}"),
        (
            f"for {percent(row['target'], 0)} in use",
            f"{row['recommended_concurrency']} at once, {row['recommended_replicas']} replica(s)",
        ),
        ("headroom", f"{number(head)} requests/s" if head >= 0 else f"none: {number(-head)} requests/s too many"),
    )
