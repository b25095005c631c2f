"""`r`: one request to a track or a replica, and what it answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from textual import events, work

from console.tui.screens.asks import _Panel
from console.tui.signs import env_badge
from console.tui.text import Line, line, millis, wrap
from state.words import AirbossError

ANSWER_LINES = 12
MAX_TOKENS = 32
LONGEST = 2000
Whom = tuple[str, Mapping[str, str]]
"""What it is called, and the field of the request that names it."""


class AskScreen(_Panel):
    """Type, enter sends; up and down choose whom. Nothing is changed by it, and it counts for no judge."""

    def __init__(
        self,
        service: str,
        env: str,
        protected: bool,
        whoms: Sequence[Whom],
        send: Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]],
    ) -> None:
        super().__init__()
        self._service, self._env, self._protected = service, env, protected
        self._whoms, self._send = whoms, send
        self._place = 0
        self._typed = "Hello"
        self._is_fresh = True
        """Nothing was typed yet: the first letter replaces what stands there."""
        self._answer: list[tuple[str, str]] = []

    def lines(self, width: int) -> list[Line]:
        """Whom, what, and the answer."""
        typed = wrap(self._typed, width - 4, "dim" if self._is_fresh else "accent")
        lines: list[Line] = [
            line(("one request to  ", "title"), (self._service, "strong"), "  ", *env_badge(self._env, self._protected)),
            (),
            *(
                line(("▸ " if n == self._place else "  ", "key"), (name, "strong" if n == self._place else "dim"))
                for n, (name, _) in enumerate(self._whoms)
            ),
            (),
            *(line(("▸ " if n == 0 else "  ", "key"), *row) for n, row in enumerate(typed)),
        ]  # fmt: skip
        for text, tone in self._answer:
            rows = wrap(text, width, tone)
            lines += [(), *rows[:ANSWER_LINES]]
            if len(rows) > ANSWER_LINES:
                lines.append(line((f"… {len(rows) - ANSWER_LINES} more lines", "dim")))
        hint = "enter sends · ↑ ↓ whom · esc leaves · past the gateway: it counts for no judge"
        return [*lines, (), *wrap(hint, width, "dim")]

    def on_paste(self, event: events.Paste) -> None:
        """A prompt may be pasted: it is text, and sends nothing by itself."""
        event.stop()
        self._type(" ".join(event.text.split()))

    def press(self, event: events.Key, *, burst: bool) -> None:
        """Letters, backspace, whom, enter."""
        if event.key == "enter" and self._typed.strip():
            self._answer = [("asking …", "info")]
            self._ask(self._typed.strip(), self._whoms[self._place][1])
        elif event.key in ("up", "down"):
            self._place = (self._place + (1 if event.key == "down" else -1)) % len(self._whoms)
        elif event.key in ("backspace", "ctrl+u"):
            self._typed = "" if event.key == "ctrl+u" or self._is_fresh else self._typed[:-1]
            self._is_fresh = False
        elif event.is_printable and event.character:
            self._type(event.character)
        self.paint()

    def _type(self, text: str) -> None:
        self._typed = ("" if self._is_fresh else self._typed) + text
        self._typed, self._is_fresh = self._typed[:LONGEST], False
        self.paint()

    @work(group="ask", exclusive=True, exit_on_error=False)
    async def _ask(self, prompt: str, whom: Mapping[str, str]) -> None:
        body = {"service": self._service, "env": self._env, "prompt": prompt, "max_tokens": MAX_TOKENS, **whom}
        try:
            found = await self._send(body)
        except AirbossError as error:
            self._answer = [(f"✗ {error.message}{f' · {error.hint}' if error.hint else ''}", "bad")]
        else:
            whose = f"{found['release']} ({found['track']})" if found["track"] else str(found["release"])
            said = f"✓ {whose} on {found['replica']} in {millis(float(found['latency_ms']))}"
            self._answer = [(said, "ok"), (str(found["text"]) or "(an empty answer)", "strong")]
        if self.is_mounted:
            self.paint()
