"""Answers to PromQL, for people: a value a series, or a line of its course."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from console.commands.context import Context
from console.commands.format import NONE
from console.commands.requests import ViewRequest
from console.commands.source import Source
from console.output import Outcome, Table

READ_S = 30.0
WIDTH = 40
_SPARKS = "▁▂▃▄▅▆▇█"


def metric(request: ViewRequest, _source: Source, context: Context) -> Outcome:
    """The series of an answer, as many as were asked for."""
    asked = {key: value for key, value in request.args.items() if key != "limit"}
    found = context.get("/v1/metric", asked, timeout_s=READ_S)
    everything, limit = found["series"], int(request.args["limit"])
    series = everything[:limit]
    notes = [f"Prometheus warns: {said}" for said in found["warnings"]]
    if len(everything) > limit:
        notes.append(f"{len(everything) - limit} more series: --limit {len(everything)}, or a narrower query")
    items = [
        {"labels": one["labels"], "query": found["query"], "points": [_point(*point) for point in one["points"]]}
        for one in series
    ]
    names = tuple(label_text(one["labels"]) for one in series)
    table = _courses(names, series) if found["start"] is not None else _values(names, series)
    return Outcome("Metric", items, blocks=(table,), names=names, notes=notes, as_of=found["end"])


def _point(at: float, value: str) -> dict[str, Any]:
    """A number, or Prometheus' own word where JSON has none (NaN, +Inf, -Inf)."""
    number = _number(value)
    return {"at": at, "value": number if math.isfinite(number) else value}


def _values(names: Sequence[str], series: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        (name, _short(one["points"][-1][1]) if one["points"] else NONE) for name, one in zip(names, series, strict=True)
    ]
    return Table(("SERIES", "VALUE"), rows, frozenset({1}), empty="no series")


def _courses(names: Sequence[str], series: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for name, one in zip(names, series, strict=True):
        values = [_number(value) for _, value in one["points"]]
        finite = [value for value in values if math.isfinite(value)]
        low, high = (f"{min(finite):.4g}", f"{max(finite):.4g}") if finite else (NONE, NONE)
        last = _short(one["points"][-1][1]) if one["points"] else NONE
        rows.append((name, last, low, high, sparkline(values, WIDTH)))
    return Table(("SERIES", "LAST", "MIN", "MAX", "COURSE"), rows, frozenset({1, 2, 3}), empty="no series")


def label_text(labels: Mapping[str, str]) -> str:
    """`up{instance="a:1"}`, as PromQL writes it; `{}` where there are none."""
    inside = ",".join(f'{name}="{labels[name]}"' for name in sorted(labels) if name != "__name__")
    name = labels.get("__name__", "")
    return f"{name}{{{inside}}}" if inside or not name else name


def sparkline(values: Sequence[float], width: int) -> str:
    """The course of `values` from its least to its most in at most `width` signs; where it is no number, a gap."""
    per = max(1, math.ceil(len(values) / width))
    groups = [[v for v in values[at : at + per] if math.isfinite(v)] for at in range(0, len(values), per)]
    means = [sum(group) / len(group) if group else math.nan for group in groups]
    known = [mean for mean in means if math.isfinite(mean)]
    if not known:
        return ""
    low, height = min(known), (max(known) - min(known)) or 1.0
    return "".join(" " if math.isnan(mean) else _SPARKS[round((mean - low) / height * 7)] for mean in means)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _short(text: str) -> str:
    """A value in six digits; what is no number as it is."""
    number = _number(text)
    return f"{number:.6g}" if math.isfinite(number) else text
