"""One pipeline run: its stages, what is known of the selected one, and its log as it is written."""

from __future__ import annotations

from collections.abc import Iterable

from textual.widget import Widget

from console.tui.log_lines import LogTail
from console.tui.run_rows import STAGE_COLUMNS, current_stage, run_head, stage_detail, stage_row
from console.tui.scene import Interest, Scene, Scope
from console.tui.screens.base import ConsoleScreen
from console.tui.screens.pages import fault_lines
from console.tui.text import line, plain
from console.tui.widgets.line_table import LineTable
from console.tui.widgets.lines import Lines, Page
from console.tui.widgets.prompt import Prompt
from engine.api.schemas import LogChunk, RunView, StageView


class RunScreen(ConsoleScreen):
    """A run. The movement keys choose a stage; page keys scroll its log; `l` follows it or stands still."""

    view = "run"

    def __init__(self, run_id: str) -> None:
        super().__init__()
        self._run_id = run_id
        self._stage = ""
        self._tails: dict[str, LogTail] = {}
        self._scope = Scope()

    def body(self) -> Iterable[Widget]:
        """Head, stages, what is known of one, its log."""
        yield Lines(id="head")
        yield LineTable(STAGE_COLUMNS, lambda s: s.name, stage_row, empty="no stage yet", id="table")
        yield Lines(id="detail")
        yield Lines(id="rule")
        yield Page(id="log")

    @property
    def tab(self) -> str:
        """It belongs to the runs."""
        return "runs"

    @property
    def item(self) -> RunView | None:
        """The run as the snapshot has it."""
        snapshot = self.scene.snapshot
        return next((r for r in snapshot.runs if r.id == self._run_id), None) if snapshot else None

    @property
    def log_page(self) -> Page:
        """The log's page."""
        return self.query_one("#log", Page)

    @property
    def tail(self) -> LogTail:
        """What is known of the selected stage's log."""
        return self._tails.setdefault(self._stage, LogTail())

    @property
    def interest(self) -> Interest | None:
        """The next piece of the selected stage's log."""
        return Interest("log", self._run_id, stage=self._stage, offset=self.tail.offset) if self._stage else None

    def on_mount(self) -> None:
        """Follow from the start."""
        self.log_page.follows = True
        super().on_mount()

    def paint(self, scene: Scene) -> None:
        """Everything, and the piece of log that came."""
        run, table = self.item, self.query_one("#table", LineTable)
        if run is None:
            self.query_one("#head", Lines).show(fault_lines(scene, self.size.width), stale=scene.is_stale)
            return
        first = current_stage(run)
        if not self._stage and first is not None:
            self._stage = first.name
            table.go_to(first.name)
        self.query_one("#head", Lines).show(run_head(run, scene.now, self.size.width), stale=scene.is_stale)
        table.styles.height = min(len(run.stages) + 1, max(4, self.size.height // 3))
        table.show(run.stages, scene.now, stale=scene.is_stale)
        self._paint_stage(next((s for s in run.stages if s.name == self._stage), None), scene)
        self._take(scene)

    def _paint_stage(self, stage: StageView | None, scene: Scene) -> None:
        detail = stage_detail(stage, self.size.width - 4) if stage is not None and self.size.height >= 30 else []
        room = self.size.height // 4
        self.query_one("#detail", Lines).show(
            [(), *[line("  ", *row) for row in detail[:room]]] if detail else [], stale=scene.is_stale
        )
        follow = "following (l: stand still)" if self.log_page.follows else "standing still (l: follow)"
        narrowed = f"  lines with {self._scope.filter!r} (esc: all)" if self._scope.filter else ""
        title = line(
            (" log of ", "dim"), (self._stage or "no stage", "title"), (narrowed, "info"), (f"  {follow}  ", "dim")
        )
        rule = max(0, self.size.width - sum(len(t) for t, _ in title) - 1)
        self.query_one("#rule", Lines).show([(*title, ("─" * rule, "frame"))], stale=scene.is_stale)

    def _take(self, scene: Scene) -> None:
        frame = scene.frame
        if (
            frame is not None
            and frame.interest is not None
            and frame.interest.stage == self._stage
            and (frame.interest.ref == self._run_id)
            and isinstance(frame.extra, LogChunk)
        ):
            self.tail.feed(frame.extra)
        self.console.look_at(self.interest)
        lines = [shown for shown in self.tail.shown() if self._scope.admits(plain(shown))]
        fault = frame.fault if frame is not None and frame.interest == self.interest else None
        if not lines:
            nothing = "no line is so" if self._scope.filter else "nothing is written yet"
            lines = [line((f"no log: {fault.message}" if fault else nothing, "dim"))]
        self.log_page.show(lines, stale=scene.is_stale)

    def move(self, how: str) -> None:
        """Up and down choose a stage, the rest scrolls the log."""
        if how in ("up", "down"):
            self.query_one("#table", LineTable).move(how)
        else:
            self.log_page.move(how)
            if how == "bottom":
                self.log_page.follows = True
            self.apply()

    def on_line_table_moved(self) -> None:
        """Another stage's log."""
        stage = self.query_one("#table", LineTable).item
        if isinstance(stage, StageView):
            self._stage = stage.name
            self.log_page.follows = True
        self.apply()

    async def look_or_go(self, key_id: str) -> None:
        """Follow on and off; show only lines with a text."""
        if key_id == "logs":
            self.log_page.follows = not self.log_page.follows
            self.apply()
        elif key_id == "filter":
            self.query_one(Prompt).open("filter", self._scope.filter)
        elif key_id == "back" and self._scope.filter:
            self._narrow("")
        elif key_id != "into":
            await super().look_or_go(key_id)

    def _narrow(self, text: str) -> None:
        self._scope = Scope(filter=text)
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
