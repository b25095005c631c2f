"""The last line of a screen: the keys, or while one is typed the filter or the command line."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.message import Message
from textual.suggester import SuggestFromList
from textual.widgets import Input

from console.tui.keymap import VIEW_ALIASES
from console.tui.text import Line, line
from console.tui.widgets.lines import Lines

SUGGESTED = (
    *sorted(VIEW_ALIASES),
    "rollback ",
    "deploy ",
    "rollout promote ",
    "rollout pause ",
    "rollout resume ",
    "rollout abort ",
    "rollout retry ",
    "rollout weight ",
    "rollout hold ",
    "rollout approve ",
    "pipeline run ",
    "run cancel ",
    "run retry ",
    "alert ack ",
    "alert silence ",
    "freeze start ",
    "freeze end ",
    "note ",
    "lineage ",
    "quit",
)
HISTORY = 100


class Prompt(Horizontal):
    """Shows the key bar; `open` turns it into a line to type into."""

    DEFAULT_CSS = """
    Prompt { height: 1; dock: bottom; }
    Prompt > #mark { width: 3; display: none; }
    Prompt > Input { width: 1fr; height: 1; border: none; padding: 0; display: none; background: $background; }
    Prompt.-open > #mark, Prompt.-open > Input { display: block; }
    Prompt.-open > #keys { display: none; }
    """

    class Typed(Message):
        """The text of the line has changed."""

        def __init__(self, mode: str, text: str) -> None:
            super().__init__()
            self.mode, self.text = mode, text

    class Entered(Typed):
        """Enter was pressed."""

    def __init__(self) -> None:
        super().__init__()
        self.mode = ""
        """`filter`, `command`, or empty while the keys are shown."""
        self._history: list[str] = []
        self._place = 0

    def compose(self) -> ComposeResult:
        """The keys, and beside them what a line is typed into."""
        yield Lines(id="keys")
        yield Lines(id="mark")
        field = Input(compact=True, select_on_focus=False)
        field.cursor_blink = False
        yield field

    def show_keys(self, keys: Line, *, stale: bool) -> None:
        """The key bar."""
        self.query_one("#keys", Lines).show([keys], stale=stale)

    def open(self, mode: str, text: str = "") -> None:
        """Begin to type."""
        self.mode = mode
        self.query_one("#mark", Lines).show([line((" / " if mode == "filter" else " : ", "key"))])
        field = self.query_one(Input)
        field.suggester = SuggestFromList(SUGGESTED, case_sensitive=False) if mode == "command" else None
        self.add_class("-open")
        with self.prevent(Input.Changed):
            field.value = text
        field.cursor_position = len(text)
        self._place = len(self._history)
        field.focus()

    def close(self) -> None:
        """Show the keys again."""
        self.mode = ""
        self.remove_class("-open")
        self.screen.set_focus(None)

    def recall(self, step: int) -> None:
        """An earlier or later command line."""
        if self.mode != "command" or not self._history:
            return
        self._place = min(len(self._history), max(0, self._place + step))
        field = self.query_one(Input)
        field.value = self._history[self._place] if self._place < len(self._history) else ""
        field.cursor_position = len(field.value)

    def on_input_changed(self, event: Input.Changed) -> None:
        """Pass on what is typed."""
        event.stop()
        if self.mode:
            self.post_message(self.Typed(self.mode, event.value))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Keep a command for recall; close; pass it on."""
        event.stop()
        mode, text = self.mode, event.value
        if mode == "command" and text.strip():
            self._history = [*[h for h in self._history if h != text], text][-HISTORY:]
        self.close()
        self.post_message(self.Entered(mode, text))
