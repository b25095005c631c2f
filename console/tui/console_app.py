"""The console: owns what is seen (the scene), where one is (the order of screens), and how it all ends."""

from __future__ import annotations

import asyncio
import os
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

from rich.console import RenderableType
from rich.text import Text
from textual import work
from textual._compositor import CompositorUpdate
from textual.app import App
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.screen import Screen

from console.client import EngineClient
from console.tui import acts, crash, line_requests
from console.tui.acting_app import fault_words
from console.tui.acts import VerbCall
from console.tui.keymap import LISTS, VIEW_TITLES
from console.tui.past import Past
from console.tui.scene import Frame, Interest, Item, Lost
from console.tui.screens.base import ConsoleScreen
from console.tui.screens.lists import ListScreen
from console.tui.side_app import SideApp
from console.tui.terminal import Watchdog
from console.tui.theme import THEMES, choose_theme
from console.tui.visits import Visit, Visits
from console.tui.widgets.prompt import Prompt
from console.tui.widgets.shown import Ready, Shown
from engine.api.schemas import RunView
from state.words import AirbossError, ExitCode

if TYPE_CHECKING:
    from console.tui.screens.pick import Entry

REMEMBERED_CLIPBOARD = 74_994
"""Bytes that terminals take in one OSC 52."""


class Seen(Message):
    """The poller looked. A newer look replaces one that was not handled yet."""

    def __init__(self, seen: Frame | Lost) -> None:
        super().__init__()
        self.seen = seen

    def can_replace(self, message: Message) -> bool:
        """Only the newest look matters."""
        return isinstance(message, Seen)


class ConsoleApp(SideApp):
    """Screens are functions of `scene`; `scene` changes in `on_seen` and by what is shown."""

    CSS_PATH = "console.tcss"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+q", "leave", "leave", show=False, priority=True),
        Binding("ctrl+l", "send_whole", "send the screen again", show=False, priority=True),
    ]

    def __init__(
        self,
        client_factory: Callable[[], EngineClient],
        *,
        read_only: bool = False,
        view: str = "fleet",
        watch_terminal: bool = False,
    ) -> None:
        super().__init__(client_factory, read_only=read_only)
        for theme in THEMES:
            self.register_theme(theme)
        # Set before anything is styled: a theme that changes has every style worked out a second time.
        self.set_reactive(App.theme, choose_theme(os.environ))
        self._latest: Frame | None = None
        self._past = Past()
        self._shown = Shown()
        self._visits = Visits()
        self._reported: dict[str, str] = {}
        self._first_view = view if view in LISTS else "fleet"
        self._lists: dict[str, ListScreen] = {}
        self._watches_terminal = watch_terminal
        self._watchdog: Watchdog | None = None

    async def on_mount(self) -> None:
        """Signals, the first view, then look at the engine."""
        if self._watches_terminal:
            loop = asyncio.get_running_loop()
            for number, code in (
                (signal.SIGHUP, ExitCode.HUP),
                (signal.SIGTERM, ExitCode.TERM),
                (signal.SIGINT, ExitCode.INT),
            ):
                loop.add_signal_handler(number, self._end, int(code))

            def hung_up() -> None:
                loop.call_soon_threadsafe(self._end, int(ExitCode.HUP))

            self._watchdog = Watchdog(hung_up)
            self._watchdog.start()
        self.app_resume_signal.subscribe(self, lambda _app: self._shown.forget())
        await self.push_screen(self._list(self._first_view))
        self._visits.note(Visit(self._first_view))
        self.poller.start()

    async def on_unmount(self) -> None:
        """Stop looking."""
        self.poller.stop()
        if self._watchdog is not None:
            self._watchdog.stop()

    def _end(self, code: int) -> None:
        self.exit(code, return_code=code)

    def action_leave(self) -> None:
        """Leave the console; nothing runs in it."""
        self._end(int(ExitCode.OK))

    def action_help_quit(self) -> None:
        """ctrl+c says how to leave, and does not."""
        self.say("ctrl+q leaves the console; q goes back. Nothing that runs is stopped by leaving.")

    def _display(self, screen: Screen[Any], renderable: RenderableType | None) -> None:
        written = self._running and not (self._batch_count or self._closed or self.is_headless or self._driver is None)
        if written and isinstance(renderable, CompositorUpdate):
            text = self._shown.difference(renderable, self.size, self.console)
            if text == "":
                self.post_display_hook()
                return
            renderable = renderable if text is None else cast("RenderableType", Ready(text))
        super()._display(screen, renderable)

    def on_resize(self) -> None:
        """A terminal that changes its size moves what is in it."""
        self._shown.forget()

    def action_send_whole(self) -> None:
        """Send the whole screen again: something else has written on the terminal."""
        self._shown.forget()
        self.screen.refresh(layout=True)

    def _handle_exception(self, error: Exception) -> None:
        self._return_code = int(ExitCode.FAILED)
        if self._exception is None:
            self._exception = error
            self._exception_event.set()
        report = crash.write_report(error, os.environ)
        self.panic(Text(crash.short_line(error, report)))

    def report(self, error: Exception) -> str:
        """Write a view's failure to a private report, once; the line that says so."""
        where = traceback.extract_tb(error.__traceback__)[-1]
        key = f"{type(error).__name__} {where.filename}:{where.lineno}"
        if key not in self._reported:
            self._reported[key] = crash.view_line(error, crash.write_report(error, os.environ))
        return self._reported[key]

    # What is seen

    def deliver(self, seen: Frame | Lost) -> None:
        """Post it; the one handler is `on_seen`."""
        if self.is_running:
            self.post_message(Seen(seen))

    def on_seen(self, message: Seen) -> None:
        """One look at the engine: a new scene, painted by the screen in front."""
        seen = message.seen
        if isinstance(seen, Lost):
            self.scene = replace(self.scene, lost=seen)
        else:
            self._latest = seen
            self._past.note(seen)
            frame = self.scene.frame if self.scene.held and self.scene.frame is not None else seen
            self.scene = replace(self.scene, frame=frame, lost=None)
        if isinstance(self.screen, ConsoleScreen):
            self.screen.apply()

    def look_at(self, interest: Interest | None) -> None:
        """Fetch this beside the snapshot."""
        self.poller.look_at(interest)

    def toggle_hold(self) -> None:
        """Hold the screen still, or show what is."""
        held = not self.scene.held
        self._past.let_go()
        self.scene = replace(self.scene, held=held, frame=self.scene.frame if held else self._latest)
        self.console_screen.apply()

    def step_in_time(self, how: int) -> None:
        """Hold the screen and show what was seen before, or after."""
        frame = self._past.step(self.scene.frame, how)
        if frame is None:
            self.say("nothing earlier was seen by this console" if how < 0 else "this is the newest; f goes on")
            return
        self.scene = replace(self.scene, held=True, frame=frame)
        self.console_screen.apply()

    def set_env(self, env: str | None) -> None:
        """Show one environment, or all."""
        self.scene = replace(self.scene, env=env)
        self.console_screen.apply()

    # Where one is

    def _list(self, view: str) -> ListScreen:
        if view not in self._lists:
            self._lists[view] = ListScreen(view)
            self.install_screen(self._lists[view], view)
        return self._lists[view]

    async def show_view(self, view: str, *, filter: str = "", env: str | None = None, noted: bool = True) -> None:
        """Leave all pages and show a list."""
        if noted:
            self._visits.note(Visit(view))
        while len(self.screen_stack) > 2:
            await self.pop_screen()
        target = self._list(view)
        if self.screen is not target:
            await self.switch_screen(target)
        if env is not None:
            self.scene = replace(self.scene, env=env)
        target.narrow(filter) if filter or env is not None else target.apply()

    async def go_back(self, *, may_quit: bool = False) -> None:
        """Up from a page; from a list, out, if that was asked for."""
        if len(self.screen_stack) > 2:
            await self.pop_screen()
        elif may_quit:
            self.action_leave()
        else:
            self.say("this is the top; q or ctrl+q leaves the console (nothing that runs is stopped)")

    async def revisit(self, how: int) -> None:
        """Where one was before, or after."""
        visit = self._visits.go(how)
        if visit is None:
            self.say("this is where it began" if how < 0 else "there is nothing ahead")
            return
        await self.show_view(visit.view, noted=False)
        if visit.ref:
            self.open_lineage(visit.ref, noted=False)
        elif visit.item is not None:
            self.open_item(visit.item, noted=False)

    def _visited(self, item: Item | None = None, ref: str = "") -> None:
        lists = [screen.view for screen in self.screen_stack if isinstance(screen, ListScreen)]
        self._visits.note(Visit(lists[-1] if lists else self._first_view, item, ref))

    def open_item(self, item: Item, *, noted: bool = True) -> None:
        """Into a rollout, a run, or any other object; from the fleet into the service's rollout if it has one."""
        from console.tui.screens.pages import RolloutScreen
        from console.tui.screens.run import RunScreen

        if noted:
            self._visited(item)
        snapshot = self.scene.snapshot
        rollout = acts.rollout_of(item, snapshot) if snapshot is not None else None
        if rollout is not None:
            self.push_screen(RolloutScreen(rollout.id))
        elif isinstance(item, RunView):
            self.push_screen(RunScreen(item.id))
        else:
            self.describe(item)

    def describe(self, item: Item) -> None:
        """All fields of an object."""
        from console.tui.screens.pages import ItemScreen

        self.push_screen(ItemScreen(item, self.console_screen.tab))

    def open_ref(self, ref: str) -> None:
        """What a reference names, if the snapshot has it."""
        found = line_requests.find(ref, self.scene.snapshot)
        if found is None:
            self.say(f"{ref} is not among what the engine shows now")
        else:
            self.open_item(found)

    def open_lineage(self, ref: str, *, noted: bool = True) -> None:
        """What something was made from."""
        from console.tui.screens.pages import LineageScreen

        if noted:
            self._visited(ref=ref)
        self.push_screen(LineageScreen(ref, self.console_screen.tab))

    def open_help(self, *, palette: bool) -> None:
        """The searchable list."""
        from console.tui.screens.pick import PickScreen, help_entries, palette_entries

        screen = self.console_screen
        if palette:
            entries = palette_entries(screen.view, screen.item, self.scene)
        else:
            entries = help_entries(screen.view, screen.item, self.scene)
        here = VIEW_TITLES.get(screen.view, screen.view)
        self.push_screen(PickScreen("every verb" if palette else f"keys on {here}", entries), self._picked)

    async def _picked(self, entry: Entry | None) -> None:
        if entry is not None and entry.key_id:
            await self.console_screen.action_key(entry.key_id)
        elif entry is not None:
            self.console_screen.query_one(Prompt).open("command", entry.command)

    @work(group="incident", exclusive=True, exit_on_error=False)
    async def write_incident(self, item: Item | None) -> None:
        """A report of the last two hours, of the service under the cursor if there is one, where this console runs."""
        self.say("writing the incident report …")
        service, env = str(getattr(item, "service", "") or ""), str(getattr(item, "env", "") or "")
        try:
            paths = await asyncio.to_thread(self._incident, service, env)
        except (AirbossError, OSError) as error:
            self.say(fault_words(error) if isinstance(error, AirbossError) else f"✗ {error}", "bad")
            return
        self.say(f"✓ {paths[0]}, and .json beside it", "ok")

    def _incident(self, service: str, env: str) -> tuple[str, str]:
        from console.commands.incident import SINCE_S, gather, write

        now = time.time()
        with self._factory() as client:
            found = gather(client, now - SINCE_S, now, service=service, env=env)
        return write(found, crash.report_dir(os.environ) / "incidents")

    def copy(self, text: str) -> None:
        """Into the clipboard of the terminal, wherever that is."""
        self.copy_to_clipboard(text[:REMEMBERED_CLIPBOARD])
        self.say(f"copied {text}")

    @work(group="line", exit_on_error=False)
    async def run_line(self, text: str) -> None:
        """A line typed after `:`."""
        if text in ("q", "quit", "exit"):
            self.action_leave()
            return
        if text == "tour":
            self.open_tour()
            return
        try:
            asked = line_requests.understand(text, self.scene.snapshot)
        except AirbossError as error:
            self.say(fault_words(error), "bad")
            return
        if isinstance(asked, VerbCall):
            if self.scene.read_only or self.scene.lost is not None:
                self.say(f": {self.why_not(None)}", "warn")
            else:
                self.begin(asked)
        elif asked.lineage:
            self.open_lineage(asked.lineage)
        elif asked.ref:
            self.open_ref(asked.ref)
        else:
            await self.show_view(asked.view, filter=asked.filter, env=asked.env)
