"""The console: owns the scene, the screens' order, and the way of a verb from a key to the engine."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

from rich.text import Text
from textual import work
from textual.app import App
from textual.binding import Binding, BindingType
from textual.message import Message

from console.client import EngineClient
from console.client_async import AsyncEngineClient
from console.tui import acts, crash, line_requests
from console.tui.acts import Refused, VerbCall
from console.tui.keymap import LISTS, VIEW_TITLES, Key
from console.tui.poller import Poller
from console.tui.scene import Frame, Interest, Item, Lost, Scene
from console.tui.screens.asks import EmergencyScreen, PromoteScreen, TextScreen
from console.tui.screens.base import ConsoleScreen
from console.tui.screens.confirm import Accepted, ConfirmScreen
from console.tui.screens.lists import ListScreen
from console.tui.screens.pages import ItemScreen, LineageScreen, RolloutScreen
from console.tui.screens.pick import Entry, PickScreen, help_entries, palette_entries
from console.tui.screens.run import RunScreen
from console.tui.terminal import Watchdog
from console.tui.theme import THEMES, choose_theme
from console.tui.widgets.prompt import Prompt
from engine.api.schemas import PlanView, RunView
from engine.verbs import Confirm
from state.words import AirbossError, ExitCode

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


class ConsoleApp(App[int]):
    """Screens are functions of `scene`; `scene` changes in `on_seen` and by what is shown; verbs go through `begin`."""

    CSS_PATH = "console.tcss"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+q", "leave", "leave", show=False, priority=True)]

    def __init__(self, client_factory: Callable[[], EngineClient], *, read_only: bool = False, view: str = "fleet",
                 watch_terminal: bool = False) -> None:
        super().__init__()
        self.scene = Scene(read_only=read_only)
        self._latest: Frame | None = None
        self._factory = client_factory
        self._client: AsyncEngineClient | None = None
        self._poller = Poller(client_factory, lambda seen: self._deliver(seen))
        self._first_view = view if view in LISTS else "fleet"
        self._lists: dict[str, ListScreen] = {}
        self._watches_terminal = watch_terminal
        self._watchdog: Watchdog | None = None

    async def on_mount(self) -> None:
        """Themes, signals, the first view, then look at the engine."""
        for theme in THEMES:
            self.register_theme(theme)
        self.theme = choose_theme(os.environ)
        if self._watches_terminal:
            loop = asyncio.get_running_loop()
            for number, code in ((signal.SIGHUP, ExitCode.HUP), (signal.SIGTERM, ExitCode.TERM)):
                loop.add_signal_handler(number, self._end, int(code))

            def hung_up() -> None:
                loop.call_soon_threadsafe(self._end, int(ExitCode.HUP))

            self._watchdog = Watchdog(hung_up)
            self._watchdog.start()
        await self.push_screen(self._list(self._first_view))
        self._poller.start()

    async def on_unmount(self) -> None:
        """Stop looking."""
        self._poller.stop()
        if self._watchdog is not None:
            self._watchdog.stop()
        if self._client is not None:
            await self._client.close()

    def _end(self, code: int) -> None:
        self.exit(code, return_code=code)

    def action_leave(self) -> None:
        """Leave the console; nothing runs in it."""
        self._end(int(ExitCode.OK))

    def action_help_quit(self) -> None:
        """ctrl+c says how to leave, and does not."""
        self.say("ctrl+q leaves the console; q goes back. Nothing that runs is stopped by leaving.")

    def _handle_exception(self, error: Exception) -> None:
        self._return_code = int(ExitCode.FAILED)
        if self._exception is None:
            self._exception = error
            self._exception_event.set()
        report = crash.write_report(error, os.environ)
        self.panic(Text(crash.short_line(error, report)))

    # What is seen

    def _deliver(self, seen: Frame | Lost) -> None:
        if self.is_running:
            self.post_message(Seen(seen))

    def on_seen(self, message: Seen) -> None:
        """One look at the engine: a new scene, painted by the screen in front."""
        seen = message.seen
        if isinstance(seen, Lost):
            self.scene = replace(self.scene, lost=seen)
        else:
            self._latest = seen
            frame = self.scene.frame if self.scene.held and self.scene.frame is not None else seen
            self.scene = replace(self.scene, frame=frame, lost=None)
        if isinstance(self.screen, ConsoleScreen):
            self.screen.apply()

    def look_at(self, interest: Interest | None) -> None:
        """Fetch this beside the snapshot."""
        self._poller.look_at(interest)

    def toggle_hold(self) -> None:
        """Hold the screen still, or show what is."""
        held = not self.scene.held
        self.scene = replace(self.scene, held=held, frame=self.scene.frame if held else self._latest)
        self.console_screen.apply()

    def set_env(self, env: str | None) -> None:
        """Show one environment, or all."""
        self.scene = replace(self.scene, env=env)
        self.console_screen.apply()

    # Where one is

    @property
    def console_screen(self) -> ConsoleScreen:
        """The view in front, under any panel."""
        return next(s for s in reversed(self.screen_stack) if isinstance(s, ConsoleScreen))

    def _list(self, view: str) -> ListScreen:
        if view not in self._lists:
            self._lists[view] = ListScreen(view)
            self.install_screen(self._lists[view], view)
        return self._lists[view]

    async def show_view(self, view: str, *, filter: str = "", env: str | None = None) -> None:
        """Leave all pages and show a list."""
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

    def open_item(self, item: Item) -> None:
        """Into a rollout, a run, or any other object; from the fleet into the service's rollout if it has one."""
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
        self.push_screen(ItemScreen(item, self.console_screen.tab))

    def open_ref(self, ref: str) -> None:
        """What a reference names, if the snapshot has it."""
        found = line_requests.find(ref, self.scene.snapshot)
        if found is None:
            self.say(f"{ref} is not among what the engine shows now")
        else:
            self.open_item(found)

    def open_lineage(self, ref: str) -> None:
        """What something was made from."""
        self.push_screen(LineageScreen(ref, self.console_screen.tab))

    def open_help(self, *, palette: bool) -> None:
        """The searchable list."""
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

    def copy(self, text: str) -> None:
        """Into the clipboard of the terminal, wherever that is."""
        self.copy_to_clipboard(text[:REMEMBERED_CLIPBOARD])
        self.say(f"copied {text}")

    def say(self, text: str, tone: str = "dim") -> None:
        """A sentence in the status line."""
        self.console_screen.say(text, tone)

    # Verbs

    def press(self, key: Key, item: Item | None) -> None:
        """A key that acts: refused with the reason, or on to its panel."""
        scene = self.scene
        if scene.lost is not None and key.id == "rollback":
            service, env = str(getattr(item, "service", "")), str(getattr(item, "env", ""))
            self.push_screen(EmergencyScreen(service, env, bool(getattr(item, "protected", True))))
            return
        if scene.read_only:
            self.say(f"{key.show}: this console is read-only", "warn")
        elif scene.lost is not None:
            self.say(f"{key.show}: the engine is unreachable; `airboss up -d` starts it", "warn")
        elif item is None or scene.snapshot is None:
            self.say(f"{key.show}: nothing is selected", "warn")
        elif key.id == "promote":
            choices, rollout = acts.promote_choices(item, scene.snapshot), acts.rollout_of(item, scene.snapshot)
            if isinstance(choices, Refused) or rollout is None:
                self.say(f"p: {choices.reason if isinstance(choices, Refused) else 'no rollout'}", "warn")
            else:
                self.push_screen(PromoteScreen(rollout, choices), self._chosen)
        elif key.id == "note":
            self.push_screen(TextScreen(f"a note on {acts.ref_of(item)}", "it stands in the audit log for good"), self._noted(item))
        else:
            choice = acts.choose(key.id, item, scene.snapshot)
            if isinstance(choice, Refused):
                self.say(f"{key.show}: {choice.reason}", "warn")
            else:
                self.begin(choice)

    def _chosen(self, call: VerbCall | str | None) -> None:
        if isinstance(call, VerbCall):
            self.begin(call)

    def _noted(self, item: Item) -> Callable[[VerbCall | str | None], None]:
        def send(text: VerbCall | str | None) -> None:
            if isinstance(text, str):
                self.begin(VerbCall("note", acts.ref_of(item), args={"text": text}))

        return send

    def begin(self, call: VerbCall) -> None:
        """Ask as the verb's rung says, then send."""
        if call.rung is Confirm.NONE:
            self._send(call, "", "")
        else:
            self.push_screen(ConfirmScreen(call, self._ask_plan), self._answered)

    def _answered(self, accepted: Accepted | None) -> None:
        if accepted is None:
            self.say("nothing was done")
        else:
            self._send(accepted.call, accepted.name, accepted.reason)

    def _engine(self) -> AsyncEngineClient:
        if self._client is None:
            with self._factory() as client:
                self._client = client.asynchronous()
        return self._client

    async def _ask_plan(self, call: VerbCall) -> PlanView | None:
        result = await self._engine().verb(call.request(dry_run=True), timeout_s=10.0)
        return result.plan

    @work(group="verbs", exit_on_error=False)
    async def _send(self, call: VerbCall, name: str, reason: str) -> None:
        self.say(f"… {call.verb} {call.ref}", "info")
        try:
            result = await self._engine().verb(call.request(reason=reason, confirm_name=name))
        except AirbossError as error:
            self.say(f"✗ {error.message}{f' · {error.hint}' if error.hint else ''}", "bad")
        else:
            self.say(f"{'✓' if result.changed else '·'} {result.message or call.verb}", "ok" if result.changed else "dim")
        self._poller.wake()

    @work(group="line", exit_on_error=False)
    async def run_line(self, text: str) -> None:
        """A line typed after `:`."""
        if text in ("q", "quit", "exit"):
            self.action_leave()
            return
        try:
            asked = line_requests.understand(text, self.scene.snapshot)
        except AirbossError as error:
            self.say(f"✗ {error.message}{f' · {error.hint}' if error.hint else ''}", "bad")
            return
        if isinstance(asked, VerbCall):
            if self.scene.read_only:
                self.say("this console is read-only", "warn")
            else:
                self.begin(asked)
        elif asked.lineage:
            self.open_lineage(asked.lineage)
        elif asked.ref:
            self.open_ref(asked.ref)
        else:
            await self.show_view(asked.view, filter=asked.filter, env=asked.env)


