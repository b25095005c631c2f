"""Charts that stand for a few seconds: a picture of minutes tells a person no more at each second, and is most of the bytes."""

from __future__ import annotations

from console.tui.fleet_rows import fleet_key
from engine.api.schemas import FleetRow

CHART_S = 5.0
"""How long a chart stands; the numbers beside it are of every second."""


class SteadyCharts:
    """The series that each row's chart shows, changed every `CHART_S` seconds, not all rows in the same one."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[float, tuple[float, ...]]] = {}

    def of(self, row: FleetRow, now: float) -> FleetRow:
        """`row` with the series its chart shows at `now` (the engine's clock, which may also be stepped back)."""
        key = fleet_key(row)
        held = self._held.get(key)
        if held is None:
            # As if rows had come one after another: a screenful of charts is not sent at once.
            held = self._held[key] = (now - len(self._held) % CHART_S, row.rate_series)
        elif not 0 <= now - held[0] < CHART_S:
            held = self._held[key] = (now, row.rate_series)
        return row if held[1] == row.rate_series else row.model_copy(update={"rate_series": held[1]})
