"""`l`: what a service's replicas wrote, those that live and the last that ended."""

from __future__ import annotations

from collections.abc import Iterable

from textual.widget import Widget

from console.tui.log_lines import replica_log_lines
from console.tui.scene import Interest, Item, ReplicaLogs, Scene
from console.tui.screens.base import ConsoleScreen
from console.tui.screens.pages import fault_lines, same_item
from console.tui.text import Line, line
from console.tui.widgets.lines import Page
from console.tui.widgets.prompt import Prompt


class ReplicaLogScreen(ConsoleScreen):
    """The logs of a service's replicas, or of one; the newest replica last, so that the end is what happens now."""

    view = "log"

    def __init__(self, item: Item, tab: str, service: str, env: str, replica: str = "") -> None:
        super().__init__()
        self._item, self._tab = item, tab
        self._service, self._env, self._replica = service, env, replica
        self._filter = ""
        self._known: ReplicaLogs | None = None

    def body(self) -> Iterable[Widget]:
        """A page."""
        yield Page(id="page")

    @property
    def tab(self) -> str:
        """The list it was opened from."""
        return self._tab

    @property
    def item(self) -> Item | None:
        """What it was opened on."""
        snapshot = self.scene.snapshot
        return same_item(self._item, snapshot) if snapshot is not None else self._item

    @property
    def interest(self) -> Interest | None:
        """The logs."""
        return Interest("replica-logs", self._service, stage=self._replica, env=self._env)

    @property
    def page(self) -> Page:
        """The page."""
        return self.query_one("#page", Page)

    def on_mount(self) -> None:
        """Follow from the start."""
        self.page.follows = True
        super().on_mount()

    def paint(self, scene: Scene) -> None:
        """The lines that came last."""
        frame = scene.frame
        if frame is not None and frame.interest == self.interest and isinstance(frame.extra, ReplicaLogs):
            self._known = frame.extra
        self.page.show(self._lines(scene), stale=scene.is_stale)

    def _lines(self, scene: Scene) -> list[Line]:
        if self._known is None:
            return fault_lines(scene, self.size.width)
        lines = replica_log_lines(self._known, self._filter)
        nothing = (
            f"no line has {self._filter!r}; esc shows all"
            if self._filter
            else f"no replica of {self._service} is known here"
        )
        return lines or [line((nothing, "dim"))]

    def status(self) -> str:
        """Of what, and whether it goes on."""
        what = self._replica or f"every replica of {self._service} in {self._env}, ended ones first"
        narrowed = f", lines with {self._filter!r} (esc: all)" if self._filter else ""
        return f"log of {what}{narrowed} · {'following (l: stand still)' if self.page.follows else 'standing still (l: follow)'}"

    def move(self, how: str) -> None:
        """Scroll; the end follows again."""
        self.page.move(how)
        if how == "bottom":
            self.page.follows = True
        self.apply()

    async def look_or_go(self, key_id: str) -> None:
        """Follow on and off; show only lines with a text."""
        if key_id == "logs":
            self.page.follows = not self.page.follows
            self.apply()
        elif key_id == "filter":
            self.query_one(Prompt).open("filter", self._filter)
        elif key_id == "back" and self._filter:
            self._narrow("")
        else:
            await super().look_or_go(key_id)

    def _narrow(self, text: str) -> None:
        self._filter = text
        self.apply()

    def on_prompt_typed(self, event: Prompt.Typed) -> None:
        """Narrow while typing."""
        if event.mode == "filter":
            self._narrow(event.text)

    def leave_prompt(self) -> None:
        """Escape while typing shows all lines again."""
        if self.query_one(Prompt).mode == "filter":
            self._narrow("")
        super().leave_prompt()
