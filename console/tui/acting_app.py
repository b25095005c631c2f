"""The way of a verb: from a key or a typed line through its panel to the engine, and its answer to the status line."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from textual import work
from textual.app import App

from console.client import EngineClient
from console.client_async import AsyncEngineClient
from console.tui import acts
from console.tui.acts import Refused, VerbCall
from console.tui.keymap import Key
from console.tui.poller import Poller
from console.tui.scene import Frame, Item, Lost, Scene
from console.tui.screens.base import ConsoleScreen
from engine.api.schemas import PlanView, RolloutView
from engine.verbs import Confirm
from state.words import AirbossError

if TYPE_CHECKING:
    from console.tui.screens.confirm import Accepted

DRY_RUN_TIMEOUT_S = 10.0


def fault_words(error: AirbossError) -> str:
    """An error in one line, with its way out."""
    return f"✗ {error.message}{f' · {error.hint}' if error.hint else ''}"


class ActingApp(App[int]):
    """An app that can change the world, through panels; where one is and what is seen is its subclass's."""

    def __init__(self, client_factory: Callable[[], EngineClient], *, read_only: bool) -> None:
        super().__init__()
        self.scene = Scene(read_only=read_only)
        self._factory = client_factory
        self._client: AsyncEngineClient | None = None
        self.poller = Poller(client_factory, self.deliver)

    def deliver(self, seen: Frame | Lost) -> None:
        """Take what the poller saw; called on its thread."""
        raise NotImplementedError

    @property
    def console_screen(self) -> ConsoleScreen:
        """The view in front, under any panel."""
        return next(s for s in reversed(self.screen_stack) if isinstance(s, ConsoleScreen))

    def say(self, text: str, tone: str = "dim") -> None:
        """A sentence in the status line."""
        self.console_screen.say(text, tone)

    async def on_unmount(self) -> None:
        """Close the connection that verbs go over."""
        if self._client is not None:
            await self._client.close()

    def why_not(self, item: Item | None) -> str:
        """Why no verb at all may run from here; empty when one may."""
        if self.scene.read_only:
            return "this console is read-only"
        if self.scene.lost is not None:
            return "the engine is unreachable; `airboss up -d` starts it"
        return "" if item is not None and self.scene.snapshot is not None else "nothing is selected"

    def press(self, key: Key, item: Item | None) -> None:
        """A key that acts: refused with the reason, or on to its panel."""
        # Panels are imported when one is opened: at the start of the console nobody waits for them.
        from console.tui.screens.asks import EmergencyScreen, TextScreen

        scene = self.scene
        if scene.lost is not None and key.id == "rollback":
            service, env = str(getattr(item, "service", "")), str(getattr(item, "env", ""))
            self.push_screen(EmergencyScreen(service, env, bool(getattr(item, "protected", True))))
            return
        reason = self.why_not(item)
        if reason or item is None or scene.snapshot is None:
            self.say(f"{key.show}: {reason}", "warn")
        elif key.id == "promote":
            self._promote(acts.promote_choices(item, scene.snapshot), acts.rollout_of(item, scene.snapshot))
        elif key.id == "note":
            screen = TextScreen(f"a note on {acts.ref_of(item)}", "it stands in the audit log for good")
            self.push_screen(screen, self._noted(acts.ref_of(item)))
        else:
            choice = acts.choose(key.id, item, scene.snapshot)
            if isinstance(choice, Refused):
                self.say(f"{key.show}: {choice.reason}", "warn")
            else:
                self.begin(choice)

    def _promote(self, choices: tuple[acts.MenuChoice, ...] | Refused, rollout: RolloutView | None) -> None:
        from console.tui.screens.asks import PromoteScreen

        if isinstance(choices, Refused) or rollout is None:
            self.say(f"p: {choices.reason if isinstance(choices, Refused) else 'no rollout'}", "warn")
        else:
            self.push_screen(PromoteScreen(rollout, choices), self._chosen)

    def _chosen(self, call: VerbCall | str | None) -> None:
        if isinstance(call, VerbCall):
            self.begin(call)

    def _noted(self, ref: str) -> Callable[[VerbCall | str | None], None]:
        def send(text: VerbCall | str | None) -> None:
            if isinstance(text, str):
                self.begin(VerbCall("note", ref, args={"text": text}))

        return send

    def begin(self, call: VerbCall) -> None:
        """Ask as the verb's rung says, then send."""
        from console.tui.screens.confirm import ConfirmScreen

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
        result = await self._engine().verb(call.request(dry_run=True), timeout_s=DRY_RUN_TIMEOUT_S)
        return result.plan

    @work(group="verbs", exit_on_error=False)
    async def _send(self, call: VerbCall, name: str, reason: str) -> None:
        self.say(f"… {call.verb} {call.ref}", "info")
        try:
            result = await self._engine().verb(call.request(reason=reason, confirm_name=name))
        except AirbossError as error:
            self.say(fault_words(error), "bad")
        else:
            self.say(
                f"{'✓' if result.changed else '·'} {result.message or call.verb}", "ok" if result.changed else "dim"
            )
        self.poller.wake()
