"""The confirm panel: opens on Cancel; only `y`, alone, after the panel was seen, accepts.

No input is taken before the first paint is out and 250 ms have passed. Keys read before that, keys that come in one
burst (a paste without brackets, typed ahead) and bracketed pastes never accept; neither does enter.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from textual import events, work
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.timer import Timer

from console.tui.acts import VerbCall
from console.tui.confirm_page import Asked, body_lines, first_field, foot_lines, head_lines, missing
from console.tui.script_lines import script_line
from console.tui.widgets.lines import Lines, Page
from engine.api.schemas import PlanView
from state.words import AirbossError

ARM_S = 0.25
BURST_S = 0.05
"""Keys closer together than this were not pressed by a hand that saw the panel."""
WIDEST = 104


@dataclass(frozen=True, slots=True)
class Accepted:
    """A confirmed verb, with what was typed."""

    call: VerbCall
    name: str
    reason: str


class ConfirmScreen(ModalScreen[Accepted | None]):
    """Shows what a verb would do and takes the answer."""

    AUTO_FOCUS = ""

    def __init__(self, call: VerbCall, ask_plan: Callable[[VerbCall], Awaitable[PlanView | None]]) -> None:
        super().__init__()
        self._call = call
        self._ask_plan = ask_plan
        self._plan = call.plan
        self._fault = ""
        self._asked = Asked(field=first_field(call))
        self._armed_at: float | None = None
        self._last_key_at = 0.0
        self._pending: Timer | None = None

    def compose(self) -> ComposeResult:
        """Head and foot stand still, the plan between them scrolls."""
        with Vertical(id="panel"):
            yield Lines(id="head")
            yield Page(id="plan")
            yield Lines(id="foot")

    def on_mount(self) -> None:
        """Show at once what is known; ask for the plan if it is not."""
        self.query_one("#panel").set_class(self._call.protected, "-protected")
        self._paint()
        if self._plan is None:
            self._fetch_plan()
        else:
            self._arm_when_seen()

    def on_resize(self) -> None:
        """Fit the new size."""
        self._paint()

    @work(exclusive=True, group="plan", exit_on_error=False)
    async def _fetch_plan(self) -> None:
        try:
            self._plan = await self._ask_plan(self._call)
            if self._plan is None:
                self._plan = PlanView(verb=self._call.verb, ref=self._call.ref, lines=())
        except AirbossError as error:
            self._fault = f"{error.message}{f' — {error.hint}' if error.hint else ''}"
        self._paint()
        self._arm_when_seen()

    def _arm_when_seen(self) -> None:
        self.call_after_refresh(self._wait_for_paint)

    def _wait_for_paint(self) -> None:
        # The terminal's writer has a queue of its own: what stands in it nobody has seen.
        writer = getattr(getattr(self.app, "_driver", None), "_writer_thread", None)
        queue = getattr(writer, "_queue", None)
        if queue is not None and not queue.empty():
            self.set_timer(0.05, self._wait_for_paint)
        else:
            self.set_timer(ARM_S, self._arm)

    def _arm(self) -> None:
        self._armed_at = time.monotonic()
        self._paint()

    def _paint(self) -> None:
        panel = self.query_one("#panel")
        width = min(WIDEST, self.size.width - 4)
        panel.styles.width = width
        inner = max(20, width - 6)
        head = head_lines(self._call, inner)
        body = body_lines(self._call, self._plan, self._fault, inner - 1)
        foot = foot_lines(
            self._call, self._asked, armed=self._armed_at is not None, refused=bool(self._fault), width=inner
        )
        self.query_one("#head", Lines).show(head)
        page = self.query_one("#plan", Page)
        page.styles.height = max(1, min(len(body), self.size.height - len(head) - len(foot) - 6))
        page.show(body)
        self.query_one("#foot", Lines).show(foot)

    def _note(self, text: str, tone: str = "warn") -> None:
        self._asked = replace(self._asked, note=text, note_tone=tone)
        self._paint()

    def on_paste(self, event: events.Paste) -> None:
        """Pasted text is no answer."""
        event.stop()
        self._note("pasted text is not taken here: type it")

    def on_key(self, event: events.Key) -> None:
        """Every key ends here."""
        event.stop()
        event.prevent_default()
        since, self._last_key_at = event.time - self._last_key_at, event.time
        if self._pending is not None:
            self._pending.stop()
            self._pending = None
            self._note("more keys came with that y: taken for pasted text, not for an answer")
            return
        if event.key in ("escape", "ctrl+c"):
            self.dismiss(None)
            return
        if self._armed_at is None or event.time < self._armed_at:
            return
        if event.key in ("up", "down", "pageup", "pagedown"):
            self.query_one("#plan", Page).move({"pageup": "page_up", "pagedown": "page_down"}.get(event.key, event.key))
        elif self._asked.field:
            self._type(event)
        elif event.key in ("enter", "q", "n"):
            self.dismiss(None)
        elif event.character == "Y":
            self.app.copy_to_clipboard(script_line(self._call, self._asked.reason))
            self._note("copied", "ok")
        elif event.character == "y":
            self._answer(since)

    def _answer(self, since: float) -> None:
        if self._fault:
            self._note("the engine refuses it, see above")
        elif missing(self._call, self._asked):
            self._note(missing(self._call, self._asked))
        elif since < BURST_S:
            self._note("that y came with other keys: taken for pasted text, not for an answer")
        else:
            self._pending = self.set_timer(BURST_S, self._accept)

    def _accept(self) -> None:
        self._pending = None
        self.dismiss(Accepted(self._call, self._asked.name, self._asked.reason))

    def _type(self, event: events.Key) -> None:
        field, value = self._asked.field, getattr(self._asked, self._asked.field)
        if event.key == "backspace":
            value = value[:-1]
        elif event.key == "ctrl+u":
            value = ""
        elif event.key in ("enter", "tab"):
            self._next_field()
            return
        elif event.is_printable and event.character:
            value = (value + event.character)[:200]
        self._asked = (
            replace(self._asked, note="", name=value)
            if field == "name"
            else replace(self._asked, note="", reason=value)
        )
        self._paint()

    def _next_field(self) -> None:
        if self._asked.field == "name" and not self._asked.name:
            self.dismiss(None)
        elif self._asked.field == "name" and self._asked.name != self._call.name:
            self._note(f"that is not {self._call.name}")
        elif self._asked.field == "name" and self._call.asks_reason:
            self._asked = replace(self._asked, field="reason", note="")
            self._paint()
        elif self._asked.field == "reason" and not self._asked.reason.strip():
            self._note("a reason is wanted: it stands in the audit log")
        else:
            self._asked = replace(self._asked, field="", note="y does it", note_tone="strong")
            self._paint()
