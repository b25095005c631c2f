"""What every view has: top bar, tabs, banners, status line, key bar; keys from the registry; one way to be painted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widget import Widget

from console.tui import chrome
from console.tui.acts import lineage_ref, ref_of
from console.tui.keymap import BY_ID, KEYS, LISTS
from console.tui.scene import Interest, Item, Scene
from console.tui.script_lines import show_line
from console.tui.shell import Console
from console.tui.text import line, pad
from console.tui.widgets.line_table import LineTable
from console.tui.widgets.lines import Lines, Page
from console.tui.widgets.prompt import Prompt


def bindings() -> list[BindingType]:
    """The registry's keys as bindings; each runs `key(id)`. None has priority, so a panel shuts all of them out."""
    return [
        Binding(",".join(key.keys), f"key('{key.id}')", key.label or key.help, show=False, id=key.id) for key in KEYS
    ]


class ConsoleScreen(Screen[None]):
    """A view. A subclass says what it shows (`body`, `paint`), what the keys are about (`item`) and what to fetch."""

    AUTO_FOCUS = ""
    BINDINGS = bindings()
    view = "fleet"
    """The registry's name of this kind of view."""

    def __init__(self) -> None:
        super().__init__()
        self._said: tuple[str, str] | None = None

    @property
    def console(self) -> Console:
        """The console this screen is in."""
        return cast(Console, self.app)

    @property
    def scene(self) -> Scene:
        """What is known now."""
        return self.console.scene

    def compose(self) -> ComposeResult:
        """Chrome around the body."""
        yield Lines(id="top")
        yield Lines(id="banners")
        yield from self.body()
        yield Lines(id="status")
        yield Prompt()

    def body(self) -> Iterable[Widget]:
        """The widgets between tabs and status line."""
        return ()

    def paint(self, scene: Scene) -> None:
        """Show the scene in the body."""

    @property
    def item(self) -> Item | None:
        """What the keys are about."""
        return None

    @property
    def interest(self) -> Interest | None:
        """What to fetch beside the snapshot."""
        return None

    @property
    def tab(self) -> str:
        """The list this view belongs to."""
        return self.view

    def mover(self) -> LineTable | Page | None:
        """What the movement keys move."""
        return next(iter(self.query(LineTable)), None) or next(iter(self.query(Page)), None)

    def on_mount(self) -> None:
        """Paint what is known."""
        self.apply()

    def on_screen_resume(self) -> None:
        """Catch up: a screen under another one is not painted."""
        self.console.look_at(self.interest)
        self.apply()

    def on_resize(self) -> None:
        """Paint for the new size."""
        self.call_after_refresh(self.apply)

    def apply(self) -> None:
        """Paint everything from the console's scene, in one batch."""
        if not self.is_mounted:
            return
        scene = self.scene
        with self.app.batch_update():
            try:
                self.paint(scene)
            except Exception as error:  # one view that cannot show an object must not take the others away
                self._said = (self.console.report(error), "bad")
            self._chrome(scene)

    def _chrome(self, scene: Scene) -> None:
        width = self.size.width
        self.query_one("#top", Lines).show(
            [chrome.top_line(scene, self.env(scene), width), chrome.tabs(self.tab, scene, width)], stale=scene.is_stale
        )
        self.query_one("#banners", Lines).show(chrome.banners(scene, width), stale=scene.is_stale)
        text, tone = self._said or (self.status(), "dim")
        self.query_one("#status", Lines).show(
            [pad(line((f" {text}", tone)), width)], stale=scene.is_stale and self._said is None
        )
        self.query_one(Prompt).show_keys(chrome.key_bar(self.view, self.item, scene, width), stale=scene.is_stale)

    def env(self, scene: Scene) -> tuple[str, bool] | None:
        """The environment of what is shown, for the badge."""
        if self.view in LISTS and not scene.env:
            return "", False
        env = scene.env if self.view in LISTS else str(getattr(self.item, "env", "") or "")
        if not env:
            return None
        rows = [row.protected for row in scene.snapshot.fleet if row.env == env] if scene.snapshot else []
        return env, any(rows) if rows else True

    def status(self) -> str:
        """What the status line says when nothing else is to be said."""
        return ""

    def say(self, text: str, tone: str = "dim") -> None:
        """A sentence in the status line, until the next key."""
        self._said = (text, tone) if text else None
        if self.is_mounted:
            self._chrome(self.scene)

    async def action_key(self, key_id: str) -> None:
        """A key of the registry."""
        key, prompt = BY_ID[key_id], self.query_one(Prompt)
        if prompt.mode:
            if key_id == "back":
                self.leave_prompt()
                return
            if prompt.mode == "command" and key_id in ("up", "down"):
                prompt.recall(-1 if key_id == "up" else 1)
                return
            if key.group != "move":
                return
        if self._said is not None:
            self.say("")
        if self.view not in key.views:
            self.say(f"{key.show} ({key.label or key.help}) has nothing to do here")
        elif key.group == "move":
            self.move(key_id)
        elif key.acts:
            self.console.press(key, self.item)
        elif key_id.startswith("view_"):
            await self.console.show_view(LISTS[int(key_id[-1]) - 1])
        else:
            await self.look_or_go(key_id)

    async def look_or_go(self, key_id: str) -> None:
        """The keys that change nothing in the world."""
        item, console = self.item, self.console
        if key_id in ("back", "quit"):
            await console.go_back(may_quit=key_id == "quit")
        elif key_id in ("help", "palette"):
            console.open_help(palette=key_id == "palette")
        elif key_id == "command":
            self.query_one(Prompt).open("command")
        elif key_id == "hold":
            console.toggle_hold()
        elif key_id in ("earlier", "later"):
            console.step_in_time(-1 if key_id == "earlier" else 1)
        elif key_id in ("visit_back", "visit_forth"):
            await console.revisit(-1 if key_id == "visit_back" else 1)
        elif key_id == "incident":
            console.write_incident(item)
        elif key_id == "shell":
            console.open_shell(item)
        elif key_id == "all_envs":
            console.set_env(None)
        elif item is None:
            self.say("nothing is selected")
        elif key_id == "into":
            console.open_item(item)
        elif key_id == "describe":
            console.describe(item)
        elif key_id == "lineage":
            console.open_lineage(lineage_ref(item))
        elif key_id == "copy":
            console.copy(ref_of(item))
        elif key_id == "copy_line":
            console.copy(show_line(item))
        elif key_id == "compare":
            console.compare(item)
        elif key_id == "scale":
            console.open_scale_menu(item)
        elif key_id == "logs":
            console.open_logs(item)
        elif key_id == "ask":
            console.open_ask(item)

    def move(self, how: str) -> None:
        """Move in what this view moves in."""
        mover = self.mover()
        if mover is not None:
            mover.move(how)

    def leave_prompt(self) -> None:
        """Escape while typing."""
        self.query_one(Prompt).close()

    def on_line_table_moved(self) -> None:
        """The cursor is on another object: what is said of it changes."""
        self.apply()

    def on_prompt_entered(self, event: Prompt.Entered) -> None:
        """A command was typed."""
        if event.mode == "command" and event.text.strip():
            self.console.run_line(event.text.strip())
