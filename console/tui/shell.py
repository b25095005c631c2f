"""What a screen may ask of the console it is in; so that screens do not import the app."""

from __future__ import annotations

from typing import Protocol

from console.tui.acts import VerbCall
from console.tui.keymap import Key
from console.tui.scene import Interest, Item, Scene


class Console(Protocol):
    """The console as its screens see it."""

    @property
    def scene(self) -> Scene:
        """What is known now."""

    def look_at(self, interest: Interest | None) -> None:
        """Fetch this beside the snapshot while the screen is open."""

    def press(self, key: Key, item: Item | None) -> None:
        """A key that acts, on an object."""

    def begin(self, call: VerbCall) -> None:
        """Confirm a verb as its rung asks, then send it."""

    async def show_view(self, view: str, *, filter: str = "", env: str | None = None) -> None:
        """Show one of the lists."""

    async def go_back(self, *, may_quit: bool = False) -> None:
        """Up from a page; from a list, with `may_quit`, out."""

    def open_item(self, item: Item) -> None:
        """Go into an object."""

    def describe(self, item: Item) -> None:
        """Show all fields of an object."""

    def open_ref(self, ref: str) -> None:
        """Go into what a reference names."""

    def open_lineage(self, ref: str) -> None:
        """Show what something was made from."""

    def open_help(self, *, palette: bool) -> None:
        """The searchable list of keys, or of verbs."""

    def toggle_hold(self) -> None:
        """Hold the screen still, or let it go on."""

    def step_in_time(self, how: int) -> None:
        """Show what was seen before (-1) or after (1)."""

    async def revisit(self, how: int) -> None:
        """Where one was before (-1) or after (1)."""

    def write_incident(self, item: Item | None) -> object:
        """Write a report of the last two hours."""

    def set_env(self, env: str | None) -> None:
        """Show one environment, or all."""

    def copy(self, text: str) -> None:
        """Put text into the terminal's clipboard."""

    def compare(self, item: Item) -> None:
        """Show what differs between two releases."""

    def open_scale_menu(self, item: Item) -> None:
        """What may be done to capacity and traffic."""

    def open_logs(self, item: Item) -> None:
        """What an object wrote: a run's stages, a service's replicas."""

    def open_ask(self, item: Item) -> None:
        """Send one request to a track or a replica."""

    def open_shell(self, item: Item | None) -> None:
        """A shell in the console's place."""

    def report(self, error: Exception) -> str:
        """Write a view's failure to a private report, once; the line that says so."""

    def run_line(self, text: str) -> None:
        """A line typed after `:`."""

    def say(self, text: str, tone: str = "dim") -> None:
        """A sentence in the status line."""
