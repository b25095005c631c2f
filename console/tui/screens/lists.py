"""The eight lists: one screen class, a Listing each, and below the table a preview of what the cursor is on."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, cast

from textual.timer import Timer
from textual.widget import Widget

from console.tui.before_alert import before_panel
from console.tui.chrome import banners
from console.tui.fleet_page import fleet_page
from console.tui.fleet_rows import FLEET
from console.tui.item_page import item_page
from console.tui.listing import Listing
from console.tui.narrowing import Narrowing
from console.tui.record_rows import ALERTS, AUDIT, RELEASES, SERVING, SLOS, chain_line
from console.tui.rollout_page import rollout_page
from console.tui.rollout_rows import ROLLOUTS
from console.tui.run_rows import RUNS, STAGE_COLUMNS, run_head, stage_row
from console.tui.scene import Interest, Item, Scene, Scope
from console.tui.screens.base import ConsoleScreen
from console.tui.steady import SteadyCharts
from console.tui.table import Row, table_lines
from console.tui.text import Line, line, plain
from console.tui.widgets.line_table import LineTable
from console.tui.widgets.lines import Lines
from console.tui.widgets.prompt import Prompt
from engine.api.schemas import AlertView, FleetRow, RolloutView, RunView

LISTINGS: dict[str, Listing[Any]] = {
    listing.view: listing
    for listing in cast("tuple[Listing[Any], ...]", (FLEET, ROLLOUTS, RUNS, RELEASES, SLOS, ALERTS, SERVING, AUDIT))
}
PREVIEW_FROM_HEIGHT = 32
"""Terminals this high have room for a preview."""
TABLE_SHARE = {"fleet": 0.4, "rollouts": 0.3, "alerts": 0.6, "serving": 0.6, "audit": 0.7}
"""How much of the height the table may take before it scrolls, where there is a preview."""
SETTLE_S = 0.12
"""The preview follows the cursor once it rests: a held arrow key does not repaint half the screen at each row."""
NEXT_SLICE_S = 0.01
SHOW_FOUND_S = 0.25
COUNTED = {
    "fleet": ("service", "services"),
    "slos": ("objective", "objectives"),
    "serving": ("process", "processes"),
    "audit": ("row", "rows"),
}


def preview(item: Item, scene: Scene, width: int) -> list[Line]:
    """What the cursor is on, in short."""
    if isinstance(item, FleetRow) and scene.snapshot is not None:
        return fleet_page(item, scene.snapshot, width)
    if isinstance(item, RolloutView):
        return rollout_page(item, scene.now, width)
    if isinstance(item, RunView):
        stages = [stage_row(s, scene.now) for s in item.stages]
        return [
            *run_head(item, scene.now, width),
            (),
            *[line("  ", *row) for row in table_lines(STAGE_COLUMNS, stages, width - 2)],
        ]
    if isinstance(item, AlertView) and scene.frame is not None:
        return [*before_panel(item, scene.frame, width), *item_page(item, width)]
    return item_page(item, width)


class ListScreen(ConsoleScreen):
    """A list with filter, cursor and preview. Kept while another view is shown, so that it is found as it was left."""

    def __init__(self, view: str) -> None:
        super().__init__()
        self.view = view
        self._listing = LISTINGS[view]
        self._charts = SteadyCharts()
        self._narrowing = Narrowing(self._listing)
        self._slicing: Timer | None = None
        self._found_shown_at = 0.0
        self._filter = ""
        self._history = False
        self._settling: Timer | None = None

    def body(self) -> Iterable[Widget]:
        """The table and the preview."""
        listing = self._listing
        yield LineTable(listing.columns, listing.key, self._row, empty=listing.empty, id="table")
        yield Lines(id="preview")

    def _row(self, item: Any, now: float) -> Row:
        return self._listing.row(self._charts.of(item, now) if isinstance(item, FleetRow) else item, now)

    @property
    def table(self) -> LineTable:
        """The table."""
        return self.query_one("#table", LineTable)

    @property
    def item(self) -> Item | None:
        """What the cursor is on."""
        return cast("Item | None", self.table.item)

    @property
    def interest(self) -> Interest | None:
        """Past alerts, older audit rows, and the previewed rollout's plans and events come beside the snapshot."""
        if self.view == "audit":
            return Interest("audit")
        if self.view == "rollouts" and isinstance(self.item, RolloutView) and self._has_preview:
            return Interest("rollout", self.item.id)
        return Interest("alerts") if self.view == "alerts" and self._history else None

    @property
    def scope(self) -> Scope:
        """What is shown."""
        return Scope(self.scene.env, self._filter, self._history)

    @property
    def _has_preview(self) -> bool:
        return self.size.height >= PREVIEW_FROM_HEIGHT

    def narrow(self, text: str) -> None:
        """Filter by a text."""
        self._filter = text
        self.apply()

    def paint(self, scene: Scene) -> None:
        """The rows, then the preview of the one under the cursor."""
        table = self.table
        if scene.frame is None:
            empty = (
                "waiting for the engine" if scene.lost is None else "nothing is known yet: the engine does not answer"
            )
            table.show([], scene.now, stale=scene.is_stale, empty=empty)
            return
        items = self._narrowing.of(scene.frame, self.scope)
        empty = f"nothing matches {self._filter!r}; esc shows all" if self._filter else self._listing.empty
        if not self._narrowing.is_over:
            empty = f"looking for {self._filter!r}…"
            self._later()
        table.show(items, scene.now, stale=scene.is_stale, empty=empty)
        self._paint_preview(scene)

    def _look_further(self) -> None:
        """The next slice of a long list; what was found is shown a few times a second and at the end."""
        if self._narrowing.is_over:
            return
        self._narrowing.go_on(self.scene.now)
        if self._narrowing.is_over or time.monotonic() - self._found_shown_at > SHOW_FOUND_S:
            self._found_shown_at = time.monotonic()
            self.apply()
        else:
            self._later()

    def _later(self) -> None:
        if self._slicing is not None:
            self._slicing.stop()
        self._slicing = self.set_timer(NEXT_SLICE_S, self._look_further)

    def _paint_preview(self, scene: Scene) -> None:
        block, item, table = self.query_one("#preview", Lines), self.item, self.table
        room = self.size.height - 4 - len(banners(scene, self.size.width))
        if not self._has_preview or item is None:
            table.styles.height = "1fr"
            block.show([])
            return
        height = max(4, min(table.count + 2, int(room * TABLE_SHARE.get(self.view, 0.4))))
        table.styles.height = height
        whole = scene.frame.extra if scene.frame is not None else None
        if (
            isinstance(item, RolloutView)
            and isinstance(whole, RolloutView)
            and (whole.id, whole.revision) == (item.id, item.revision)
        ):
            item = whole
        if isinstance(item, FleetRow):
            item = self._charts.of(item, scene.now)
        self.console.look_at(self.interest)
        block.show(preview(item, scene, self.size.width)[: room - height], stale=scene.is_stale)

    def on_line_table_moved(self) -> None:
        """What is said of the row under the cursor follows when the cursor rests."""
        if self._settling is not None:
            self._settling.stop()
        self._settling = self.set_timer(SETTLE_S, self.apply)

    def status(self) -> str:
        """How many rows, of what, filtered by what."""
        count = self.table.count
        one, many = COUNTED.get(self.view, (self.view.removesuffix("s"), self.view))
        words = [f"{count} {one if count == 1 else many}"]
        if self.scene.env:
            words.append(f"in {self.scene.env} (0: all)")
        if self._filter:
            words.append(f"filter {self._filter!r} (esc clears)")
        if self.view == "alerts":
            words.append("all there ever were (h: active)" if self._history else "active (h: history)")
        if self.view == "audit" and self.scene.snapshot is not None:
            words.append(plain(chain_line(self.scene.snapshot)))
        return "  ·  ".join(words)

    async def look_or_go(self, key_id: str) -> None:
        """Filter and history are this view's own; escape clears the filter first."""
        if key_id == "filter":
            self.query_one(Prompt).open("filter", self._filter)
        elif key_id == "history":
            self._history = not self._history
            self.console.look_at(self.interest)
            self.apply()
        elif key_id == "back" and self._filter:
            self.narrow("")
        else:
            await super().look_or_go(key_id)

    def on_prompt_typed(self, event: Prompt.Typed) -> None:
        """Narrow while typing."""
        if event.mode == "filter":
            self.narrow(event.text)

    def leave_prompt(self) -> None:
        """Escape while typing a filter drops it."""
        was_filter = self.query_one(Prompt).mode == "filter"
        super().leave_prompt()
        if was_filter:
            self.narrow("")
