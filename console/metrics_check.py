"""What `doctor` and `status` say of each service's metrics at the Prometheus server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from state.words import Unreachable

if TYPE_CHECKING:
    from console.commands.context import Context

READ_S = 60.0
"""Some questions a metric, of every service in every environment."""
HELP = "`airboss help prometheus` has what the profile wants"
Item = Mapping[str, Any]


def findings(context: Context) -> Iterator[tuple[str, bool, str, str]]:
    """(check, is it well, what was found, what to do) for each service; none without an engine or without `[metrics] url`."""
    if context.config.metrics.url is None:
        return
    try:
        seen = context.get("/v1/metric/profiles", timeout_s=READ_S)
    except Unreachable:
        return
    for one in seen:
        yield "metrics", one["level"] == "ok", f"{_who(one)}: {one['says']}{_labels(one)}", HELP


def facts(items: Sequence[Item]) -> Iterator[tuple[str, str]]:
    """Lines of `status`: each service's troubles, or that there are none."""
    for one in items:
        yield "metrics", f"{_who(one)}: {one['says']}"


def _who(one: Item) -> str:
    return f"{one['service']} in {one['env']} by {one['profile']}"


def _labels(one: Item) -> str:
    """The metrics that are there, with the labels that they have."""
    there = [f"{m['metric']}{{{','.join(m['labels'])}}}" for m in one["metrics"] if m["labels"] and not m["trouble"]]
    return f"; {'; '.join(there)}" if there else ""
