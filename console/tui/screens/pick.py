"""Help and palette: one searchable list, made from the registry; enter runs what the cursor is on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from textual import events
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import ModalScreen

from console.tui.acts import refusal, rollout_of
from console.tui.keymap import GROUPS, KEYS, key_of_verb, verbs_without_key
from console.tui.scene import Item, Scene, Scope
from console.tui.signs import words
from console.tui.table import Column, Row
from console.tui.text import line
from console.tui.widgets.line_table import LineTable
from console.tui.widgets.lines import Lines
from engine.verbs import VERBS


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the list: a key of the registry, or the beginning of a command line."""

    show: str
    label: str
    help: str
    key_id: str = ""
    command: str = ""
    reason: str = ""
    """Why it may not run now."""


_COMMANDS = {
    "deploy": "deploy ",
    "freeze.start": "freeze start ",
    "freeze.end": "freeze end ",
    "hold": "rollout hold ",
    "unhold": "rollout unhold ",
    "pipeline.run": "pipeline run ",
    "alert.unsilence": "alert unsilence ",
    "engine.down": "down",
    "engine.drain": "down --all",
}
"""Verbs without a key → how their line begins."""


def help_entries(view: str, item: Item | None, scene: Scene) -> list[Entry]:
    """Every key, those of this view first."""
    keys = sorted(KEYS, key=lambda k: (view not in k.views, list(GROUPS).index(k.group)))
    return [
        Entry(
            k.show,
            GROUPS[k.group] if view in k.views else "elsewhere",
            k.help,
            key_id=k.id,
            reason=_reason(k.id, item, scene) if view in k.views else "",
        )
        for k in keys
    ]


def palette_entries(view: str, item: Item | None, scene: Scene) -> list[Entry]:
    """Every verb by its name: by its key where it has one here, else as a command line; then what only looks."""
    entries = []
    for name, verb in VERBS.items():
        key = key_of_verb(name)
        if key is not None and view in key.views:
            entries.append(
                Entry(
                    key.show,
                    words(name.replace(".", " ")),
                    verb.summary,
                    key_id=key.id,
                    reason=_verb_reason(name, key.id, item, scene),
                )
            )
        elif name in verbs_without_key():
            entries.append(
                Entry(
                    ":", name.replace(".", " "), verb.summary, command=_COMMANDS.get(name, name.replace(".", " ") + " ")
                )
            )
    looks = [
        k
        for k in KEYS
        if view in k.views and not k.acts and k.group in ("look", "go") and k.id not in ("palette", "into", "back")
    ]
    return [*entries, *(Entry(k.show, k.label, k.help, key_id=k.id) for k in looks)]


def _reason(key_id: str, item: Item | None, scene: Scene) -> str:
    why = refusal(key_id, item, scene.snapshot)
    if why:
        return why
    acts = next(k.acts for k in KEYS if k.id == key_id)
    if acts and scene.read_only:
        return "this console is read-only"
    return "the engine is unreachable" if acts and scene.lost is not None and key_id != "rollback" else ""


def _verb_reason(verb: str, key_id: str, item: Item | None, scene: Scene) -> str:
    """Why this very verb may not run: one key may stand for several."""
    rollout = rollout_of(item, scene.snapshot) if item is not None and scene.snapshot is not None else None
    if rollout is not None and verb in rollout.refusals:
        return rollout.refusals[verb]
    return _reason(key_id, item, scene)


_COLUMNS = (Column("KEY", 7, ">", most=8), Column("", 9, most=22), Column("WHAT IT DOES", 20, flex=True, most=120))


def _row(entry: Entry, _now: float) -> Row:
    off = bool(entry.reason)
    text = line((entry.help, "dim" if off else ""), (f" · not now: {entry.reason}" if off else "", "warn"))
    return Row(
        f"{entry.show} {entry.label} {entry.help}",
        (line((entry.show, "key.off" if off else "key")), line((entry.label, "dim")), text),
    )


class PickScreen(ModalScreen[Entry | None]):
    """Type to search, move, enter runs, escape leaves. Nothing that acts runs from here without its own panel."""

    AUTO_FOCUS = ""

    def __init__(self, title: str, entries: Sequence[Entry]) -> None:
        super().__init__()
        self._heading = title
        self._entries = list(entries)
        self._typed = ""

    def compose(self) -> ComposeResult:
        """Search line, list, hint."""
        with Vertical(id="panel"):
            yield Lines(id="search")
            yield LineTable(
                _COLUMNS, lambda e: f"{e.show} {e.label} {e.help}", _row, empty="no key does that", id="table"
            )

    def on_mount(self) -> None:
        """Show all of it."""
        self._paint()

    def on_resize(self) -> None:
        """Fit the new size."""
        self.call_after_refresh(self._paint)

    def _paint(self) -> None:
        panel = self.query_one("#panel")
        panel.styles.width, panel.styles.height = (
            min(112, self.size.width - 2),
            min(len(self._entries) + 6, self.size.height - 2),
        )
        found = [
            e for e in self._entries if Scope(filter=self._typed).admits(f"{e.show} {e.label} {e.help} {e.reason}")
        ]
        self.query_one("#search", Lines).show(
            [
                line((self._heading, "title"), ("   type to search · enter runs it · esc leaves", "dim")),
                line(("▸ ", "key"), (self._typed, "accent"), ("▏", "key")),
            ]
        )
        self.query_one("#table", LineTable).show(found, 0.0)

    def on_paste(self, event: events.Paste) -> None:
        """Searching may be pasted: it only narrows."""
        event.stop()
        self._typed = (self._typed + " ".join(event.text.split()))[:80]
        self._paint()

    def on_key(self, event: events.Key) -> None:
        """Letters search, the rest moves."""
        event.stop()
        event.prevent_default()
        table = self.query_one("#table", LineTable)
        moves = {
            "up": "up",
            "down": "down",
            "pageup": "page_up",
            "pagedown": "page_down",
            "home": "top",
            "end": "bottom",
        }
        if event.key in ("escape", "ctrl+c"):
            self.dismiss(None)
        elif event.key == "enter":
            self.dismiss(table.item)
        elif event.key in moves:
            table.move(moves[event.key])
        elif event.key in ("backspace", "ctrl+u"):
            self._typed = "" if event.key == "ctrl+u" else self._typed[:-1]
            self._paint()
        elif event.is_printable and event.character and not (event.character == "?" and not self._typed):
            self._typed = (self._typed + event.character)[:80]
            self._paint()
