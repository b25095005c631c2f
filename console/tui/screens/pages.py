"""What `enter`, `d` and `g` open: a rollout, any other object, a lineage tree."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from textual.widget import Widget

from console.rows import first_of
from console.tui.acts import ref_of
from console.tui.before_alert import before_panel
from console.tui.item_page import item_page
from console.tui.lineage_rows import COLUMNS, lineage_rows, node_ref
from console.tui.rollout_page import rollout_page
from console.tui.scene import Interest, Item, Scene
from console.tui.screens.base import ConsoleScreen
from console.tui.table import Row
from console.tui.text import Line, line, wrap
from console.tui.widgets.line_table import LineTable
from console.tui.widgets.lines import Page
from engine.api.schemas import AlertView, FleetRow, LineageNode, RolloutView, SloView, Snapshot


def fault_lines(scene: Scene, width: int) -> list[Line]:
    """Why there is nothing to show."""
    fault = scene.frame.fault if scene.frame else None
    if fault is not None:
        return [
            line(("  " if i else "✗ ", "bad"), *row)
            for i, row in enumerate(wrap(f"{fault.message} {fault.hint}".strip(), width - 2))
        ]
    return [line(("asking the engine…", "dim"))]


class RolloutScreen(ConsoleScreen):
    """One rollout."""

    view = "rollout"

    def __init__(self, rollout_id: str) -> None:
        super().__init__()
        self._rollout_id = rollout_id

    def body(self) -> Iterable[Widget]:
        """A page."""
        yield Page(id="page")

    @property
    def tab(self) -> str:
        """It belongs to the rollouts."""
        return "rollouts"

    @property
    def interest(self) -> Interest | None:
        """The rollout with its plans and events."""
        return Interest("rollout", self._rollout_id)

    @property
    def item(self) -> RolloutView | None:
        """The rollout: whole if it has come, else as the snapshot has it."""
        frame = self.scene.frame
        if frame is None:
            return None
        brief = next((r for r in frame.snapshot.rollouts if r.id == self._rollout_id), None)
        whole = frame.extra if isinstance(frame.extra, RolloutView) and frame.extra.id == self._rollout_id else None
        if whole is None or brief is None:
            return whole or brief
        return whole if whole.revision >= brief.revision else brief

    def paint(self, scene: Scene) -> None:
        """The page at this width."""
        page = self.query_one("#page", Page)
        width = page.scrollable_content_region.width
        rollout = self.item
        page.show(
            rollout_page(rollout, scene.now, width) if rollout else fault_lines(scene, width), stale=scene.is_stale
        )


def same_item(item: Item, snapshot: Snapshot) -> Item:
    """The object as a later snapshot has it; as it was if it is not there any more."""
    pools: tuple[Sequence[Item], ...] = (
        snapshot.rollouts,
        snapshot.runs,
        snapshot.releases,
        snapshot.alerts,
        snapshot.serving,
        snapshot.fleet,
        snapshot.slos,
    )

    def key_of(other: Item) -> object:
        if isinstance(other, FleetRow | SloView):
            return other.service, other.env
        return getattr(other, "id", getattr(other, "spawn_id", None))

    key = key_of(item)
    name = str(key[0] if isinstance(key, tuple) else key)
    for pool in pools:
        if pool and type(pool[0]) is type(item):
            return first_of(pool, name, lambda other: key_of(other) == key) or item
    return item


class ItemScreen(ConsoleScreen):
    """Any object, all its fields."""

    view = "item"

    def __init__(self, item: Item, tab: str) -> None:
        super().__init__()
        self._item = item
        self._tab = tab

    def body(self) -> Iterable[Widget]:
        """A page."""
        yield Page(id="page")

    @property
    def tab(self) -> str:
        """The list it was opened from."""
        return self._tab

    @property
    def item(self) -> Item | None:
        """The object as it is now."""
        return self._item

    def paint(self, scene: Scene) -> None:
        """Its fields."""
        if scene.snapshot is not None:
            self._item = same_item(self._item, scene.snapshot)
        page = self.query_one("#page", Page)
        width = page.scrollable_content_region.width
        lines = item_page(self._item, width)
        if isinstance(self._item, AlertView) and scene.frame is not None:
            # What one wants to know of an alert is not its fields.
            lines = [*before_panel(self._item, scene.frame, width), *lines]
        page.show(lines, stale=scene.is_stale)

    @property
    def interest(self) -> Interest | None:
        """Of an alert: enough of the audit log to see what came before it."""
        return Interest("audit") if isinstance(self._item, AlertView) else None

    def status(self) -> str:
        """Its reference."""
        return ref_of(self._item)


class LineageScreen(ConsoleScreen):
    """What something was made from; `g` again: what was made from it."""

    view = "lineage"

    def __init__(self, ref: str, tab: str) -> None:
        super().__init__()
        self._ref, self._tab = ref, tab
        self._forward = False
        self._root: LineageNode | None = None

    def body(self) -> Iterable[Widget]:
        """The tree as a table."""
        yield LineTable(COLUMNS, lambda row: row.key, _same, id="table")

    @property
    def tab(self) -> str:
        """The list it was opened from."""
        return self._tab

    @property
    def interest(self) -> Interest | None:
        """The tree."""
        return Interest("lineage", self._ref, forward=self._forward)

    def paint(self, scene: Scene) -> None:
        """The tree that was asked for last, if it has come."""
        frame = scene.frame
        if frame is not None and frame.interest == self.interest and isinstance(frame.extra, LineageNode):
            self._root = frame.extra
        rows = lineage_rows(self._root) if self._root else []
        fault = frame.fault if frame is not None and frame.interest == self.interest else None
        self.query_one("#table", LineTable).show(
            rows, scene.now, stale=scene.is_stale, empty=f"✗ {fault.message}" if fault else "asking the engine…"
        )

    def status(self) -> str:
        """Which way it is read."""
        way = (
            "what was made from it (g: what it was made from)"
            if self._forward
            else "what it was made from (g: what was made from it)"
        )
        return f"lineage of {self._ref}: {way}"

    async def look_or_go(self, key_id: str) -> None:
        """Turn the tree round; go into what a node names."""
        row: Row | None = self.query_one("#table", LineTable).item
        if key_id == "lineage":
            self._forward, self._root = not self._forward, None
            self.console.look_at(self.interest)
            self.apply()
        elif key_id in ("into", "copy") and row is not None:
            ref = node_ref(row)
            if key_id == "copy":
                self.console.copy(ref)
            else:
                self.console.open_ref(ref)
        else:
            await super().look_or_go(key_id)


def _same(row: Row, _now: float) -> Row:
    return row
