"""Small panels before a verb: the promote menu, a line of text, and how to roll back with no engine."""

from __future__ import annotations

import time

from textual import events
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import ModalScreen

from console.tui.acts import MenuChoice, Refused, VerbCall
from console.tui.plan_lines import plan_lines
from console.tui.screens.confirm import ARM_S, BURST_S, WIDEST
from console.tui.script_lines import emergency_line
from console.tui.signs import env_badge
from console.tui.text import Line, line, wrap
from console.tui.widgets.lines import Lines
from engine.api.schemas import RolloutView


class _Panel(ModalScreen[VerbCall | str | None]):
    """A panel of lines; every key ends in `press`, none before the panel has been seen for a moment."""

    AUTO_FOCUS = ""

    def __init__(self) -> None:
        super().__init__()
        self._armed_at: float | None = None
        self._last_key_at = 0.0

    def compose(self) -> ComposeResult:
        """One block."""
        with Vertical(id="panel"):
            yield Lines(id="body")

    def on_mount(self) -> None:
        """Show, then wait until it has been seen."""
        self.paint()
        self.call_after_refresh(lambda: self.set_timer(ARM_S, self._arm))

    def on_resize(self) -> None:
        """Fit the new size."""
        self.paint()

    def _arm(self) -> None:
        self._armed_at = time.monotonic()

    def lines(self, width: int) -> list[Line]:
        """What the panel says."""
        return []

    def paint(self) -> None:
        """Show the lines."""
        width = min(WIDEST, self.size.width - 4)
        self.query_one("#panel").styles.width = width
        self.query_one("#body", Lines).show(self.lines(max(20, width - 6)))

    def on_paste(self, event: events.Paste) -> None:
        """Pasted text is never keys."""
        event.stop()

    def on_key(self, event: events.Key) -> None:
        """Escape leaves; anything else counts once the panel has been seen."""
        event.stop()
        event.prevent_default()
        burst, self._last_key_at = event.time - self._last_key_at < BURST_S, event.time
        if event.key in ("escape", "ctrl+c"):
            self.dismiss(None)
        elif self._armed_at is not None and event.time >= self._armed_at:
            self.press(event, burst=burst)

    def press(self, event: events.Key, *, burst: bool) -> None:
        """A key, once they count."""


class MenuScreen(_Panel):
    """A menu: each line with its key, refused ones with the reason. Only opens; the confirm panel acts."""

    def __init__(self, choices: tuple[MenuChoice, ...]) -> None:
        super().__init__()
        self._choices = choices
        self._asking: MenuChoice | None = None
        self._typed = ""
        self._note = ""

    def head(self, width: int) -> list[Line]:
        """What it is about."""
        return []

    def foot(self, width: int) -> list[Line]:
        """What else is to be known."""
        return []

    def more(self, call: VerbCall, width: int) -> list[Line]:
        """What stands under a line that may run."""
        return []

    def lines(self, width: int) -> list[Line]:
        """Head, the menu, foot."""
        lines = [*self.head(width), ()]
        for choice in self._choices:
            refused = isinstance(choice.choice, Refused)
            lines.append(
                line(
                    (f"  {choice.key}  ", "key.off" if refused else "key"),
                    (choice.label, "key.off" if refused else "strong"),
                )
            )
            if isinstance(choice.choice, Refused):
                lines += [line("     ", *row) for row in wrap(choice.choice.reason, width - 5, "warn")]
            else:
                lines += [line("     ", *row) for row in self.more(choice.choice, width - 5)]
        lines += self.foot(width)
        if self._asking is not None:
            lines += [
                (),
                line(
                    ("▸ ", "key"),
                    (f"{self._asking.asks_for}: ", "strong"),
                    (self._typed, "accent"),
                    ("▏", "key"),
                    ("  enter", "dim"),
                ),
            ]
        return [*lines, (), line((" Cancel ", "badge.on"), (" esc enter", "dim")), line((self._note, "warn"))]

    def press(self, event: events.Key, *, burst: bool) -> None:
        """Choose a line; digits while a number is asked for."""
        if self._asking is not None:
            self._type_number(event, self._asking)
            return
        if event.key in ("enter", "q"):
            self.dismiss(None)
            return
        chosen = next((c for c in self._choices if c.key == event.character), None)
        if chosen is None:
            return
        if isinstance(chosen.choice, Refused):
            self._note = f"{chosen.key}: {chosen.choice.reason}"
        elif burst:
            self._note = "more keys came with that one: taken for pasted text"
        elif chosen.asks:
            self._asking, self._note = chosen, ""
        else:
            self.dismiss(chosen.choice)
            return
        self.paint()

    def _type_number(self, event: events.Key, asking: MenuChoice) -> None:
        if event.key == "backspace":
            self._typed = self._typed[:-1]
        elif event.character and event.character.isdigit() and event.character.isascii():
            self._typed = (self._typed + event.character)[:3]
        elif event.key == "enter":
            number = int(self._typed or 0)
            if 1 <= number <= asking.most:
                self.dismiss(asking.with_number(number))
                return
            self._note = f"a whole number from 1 to {asking.most}"
        self.paint()


class PromoteScreen(MenuScreen):
    """The promote menu, and what the next step would change."""

    def __init__(self, rollout: RolloutView, choices: tuple[MenuChoice, ...]) -> None:
        super().__init__(choices)
        self._rollout = rollout

    def head(self, width: int) -> list[Line]:
        """The rollout, and from where to where."""
        r = self._rollout
        return [
            line(("promote  ", "title"), (f"rollout {r.id}", "strong"), "  ", *env_badge(r.env, r.protected)),
            line((f"{r.service}  {r.from_release or 'nothing'} → {r.to_release}, now at {r.weight} %", "dim")),
        ]

    def more(self, call: VerbCall, width: int) -> list[Line]:
        """The plan of the next step."""
        plan = self._rollout.promote_plan
        return plan_lines(plan, width) if call.verb == "rollout.promote" and plan is not None else []


class TextScreen(_Panel):
    """Asks for a line of text, for a note."""

    def __init__(self, title: str, hint: str) -> None:
        super().__init__()
        self._title, self._hint, self._typed = title, hint, ""

    def lines(self, width: int) -> list[Line]:
        """Title, field, hint."""
        typed = wrap(self._typed, width - 4, "accent")
        return [
            line((self._title, "title")),
            (),
            *[line(("▸ " if i == 0 else "  ", "key"), *row) for i, row in enumerate(typed)],
            (),
            line(("enter keeps it, esc does not · ", "dim"), (self._hint, "dim")),
        ]

    def on_paste(self, event: events.Paste) -> None:
        """A note may be pasted: it is text, and sends nothing by itself."""
        event.stop()
        self._typed = (self._typed + " ".join(event.text.split()))[:2000]
        self.paint()

    def press(self, event: events.Key, *, burst: bool) -> None:
        """Letters, backspace, enter."""
        if event.key == "enter":
            self.dismiss(self._typed.strip() or None)
            return
        if event.key == "backspace":
            self._typed = self._typed[:-1]
        elif event.key == "ctrl+u":
            self._typed = ""
        elif event.is_printable and event.character:
            self._typed = (self._typed + event.character)[:2000]
        self.paint()


class EmergencyScreen(_Panel):
    """`b` with no engine: the line that rolls back without it. Nothing is done from here."""

    def __init__(self, service: str, env: str, protected: bool) -> None:
        super().__init__()
        self._line = emergency_line(service or "SERVICE", env)
        self._badge = env_badge(env, protected) if env else ()
        self._note = ""

    def lines(self, width: int) -> list[Line]:
        """What to type, where."""
        return [
            line(("roll back without the engine  ", "title"), *self._badge),
            (),
            *wrap(
                "The engine does not answer, so this console cannot roll back. The gateway still serves, and takes the plan"
                " from the command line; the engine imports what was done when it returns. In a shell on this host:",
                width,
            ),
            (),
            line("  ", (self._line, "accent")),
            (),
            *wrap(
                "Or start the engine, `airboss up -d`: this screen finds it by itself and `b` works again.",
                width,
                "dim",
            ),
            (),
            line((" Close ", "badge.on"), (" esc enter", "dim"), ("      Y", "key"), ("  copy the line", "dim")),
            line((self._note, "ok")),
        ]

    def press(self, event: events.Key, *, burst: bool) -> None:
        """Copy or close."""
        if event.character in ("Y", "c"):
            self.app.copy_to_clipboard(self._line)
            self._note = "copied"
            self.paint()
        elif event.key in ("enter", "q"):
            self.dismiss(None)
