"""Two releases side by side, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from console.commands.format import NONE
from console.commands.refs import name_of
from console.output import Outcome, Table, Text

if TYPE_CHECKING:
    from console.commands.context import Context
    from console.commands.requests import ViewRequest
    from console.commands.source import Source

Item = Mapping[str, Any]
WAIT_S = 60.0
"""A day of a busy service's counts takes a while to draw from."""


def release_compare(request: ViewRequest, source: Source, _context: Context) -> Outcome:
    """What differs in quality, errors, latency and cost, metric by metric."""
    params = {"with": name_of(request.args["with"]), "last_s": request.args["last_s"], "env": request.env}
    return comparison(source.get(f"/v1/releases/{name_of(request.ref)}/comparison", params, timeout_s=WAIT_S))


def comparison(item: Item) -> Outcome:
    """The table, and the sentence that it comes to."""
    header = ("METRIC", item["a"], item["b"], "DIFFERENCE", "INTERVAL", "CHANGE", "SAMPLES", "SAYS")
    rows = [_row(row, item["a"], item["b"]) for row in item["rows"]]
    by_note: dict[str, list[str]] = {}
    for row in item["rows"]:
        if row["note"]:
            by_note.setdefault(row["note"], []).append(row["metric"])
    notes = [f"{', '.join(metrics)}: {note}" for note, metrics in by_note.items()]
    together = (
        f"they served in {item['together']} blocks of time together"
        if item["together"]
        else "they never served at one time"
    )
    table = Table(header, rows, frozenset({1, 2, 3, 5, 6}), empty="nothing is known of them")
    return Outcome(
        "ReleaseComparison",
        [item],
        blocks=(table, Text(f"{item['sentence']}.\n{together}." + "".join(f"\n{note}." for note in notes))),
        names=[row["metric"] for row in item["rows"]],
    )


def _row(row: Item, a: str, b: str) -> tuple[str, ...]:
    unit = row["unit"]
    says = row["says"]
    if says == "too few":
        says = f"too few: {min(row['n_a'], row['n_b'])} of {row['needed']} {row['samples']}"
        if min(row["n_a"], row["n_b"]) >= row["needed"]:
            says = "too few blocks of time"
    says = {"A is better": f"{a} is better", "B is better": f"{b} is better"}.get(says, str(says))
    interval = (
        NONE if row["low"] is None else f"{_number(row['low'], unit, True)} to {_number(row['high'], unit, True)}"
    )
    change = NONE if row["change_pct"] is None else f"{row['change_pct']:+.1f} %"
    return (
        row["metric"],
        _number(row["a"], unit),
        _number(row["b"], unit),
        _number(row["difference"], unit, True),
        interval,
        change,
        f"{row['n_a']} {row['n_b']}",
        says,
    )


def _number(value: float | None, unit: str, signed: bool = False) -> str:
    if value is None:
        return NONE
    sign = "+" if signed and value > 0 else "-" if value < 0 else ""
    size = abs(value)
    match unit:
        case "$":
            return f"{sign}${size:.3g}"
        case "ms":
            return f"{sign}{size:.3g} ms"
        case "s":
            return f"{sign}{size:.3g} s"
        case "":
            return f"{sign}{100 * size:.3g} %"
        case _:
            return f"{sign}{size:.4g}"
