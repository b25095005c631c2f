"""Owner of stdout: what a command found, as a table, JSON, YAML or names. Everything else goes to stderr (diagnostics).

Tables are drawn with rich on a terminal, and are plain aligned text in a pipe. No colour and no control character of
somebody else's text ever leaves here.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TextIO

from state.words import API_VERSION, AirbossError, ExitCode

_TIME_KEY = re.compile(r"(?:.*_)?(?:at|since|until|as_of)")
_FREE_FORM = frozenset({"params", "training", "serving", "metrics", "progress", "detail", "labels", "args", "policy"})
"""Fields whose content is somebody's own: their numbers are not taken for times."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a header. `right` are the columns of numbers."""

    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    right: frozenset[int] = frozenset()
    title: str = ""
    empty: str = "none"


@dataclass(frozen=True, slots=True)
class Facts:
    """One object's facts, a line each."""

    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Text:
    """Text as it is; control characters but newline and tab are made visible."""

    text: str


Block = Table | Facts | Text


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command found or did: `items` for programs, `blocks` for people, `exit` for scripts."""

    kind: str
    items: Sequence[Mapping[str, Any]]
    blocks: Sequence[Block] = ()
    names: Sequence[str] = ()
    exit: ExitCode = ExitCode.OK
    notes: Sequence[str] = ()
    ref: str = ""
    as_of: float | None = None
    is_printed: bool = False
    error: AirbossError | None = None
    """What is reported after the outcome: it was done, and a wait for its end did not come to a good one."""

    @classmethod
    def printed(cls, exit: ExitCode = ExitCode.OK, ref: str = "") -> Outcome:
        """The outcome of what has printed as it went."""
        return cls("", [], exit=exit, ref=ref, is_printed=True)


def rfc3339(at: float) -> str:
    """Unix seconds → `2026-11-21T18:00:00.123Z`."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def plain(value: Any, key: str = "") -> Any:
    """`value` with times as RFC 3339 UTC and without NaN, which JSON does not have."""
    if isinstance(value, Mapping):
        return {str(k): (v if k in _FREE_FORM else plain(v, str(k))) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and _TIME_KEY.fullmatch(key):
        return rfc3339(float(value))
    return value


def envelope(outcome: Outcome) -> dict[str, Any]:
    """The one shape of every JSON answer."""
    return {
        "apiVersion": API_VERSION,
        "kind": outcome.kind,
        "asOf": rfc3339(outcome.as_of if outcome.as_of is not None else time.time()),
        "items": [plain(item) for item in outcome.items],
    }


def visible(text: str, *, multiline: bool = False) -> str:
    """`text` with every character that could steer a terminal, or hide, written out."""
    if text.isprintable():
        return text
    keep = "\n\t" if multiline else ""
    return "".join(ch if ch.isprintable() or ch in keep else ch.encode("unicode_escape").decode("ascii") for ch in text)


@dataclass(slots=True)
class Output:
    """Writes outcomes to a stream in one format."""

    format: str = "table"
    stream: TextIO = field(default_factory=lambda: sys.stdout)
    _seq: int = 0

    def __post_init__(self) -> None:
        # A locale that cannot say a character must not stop the answer.
        reconfigure = getattr(self.stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")

    @property
    def is_tty(self) -> bool:
        """A person reads this."""
        return self.stream.isatty()

    def show(self, outcome: Outcome) -> None:
        """Write the outcome."""
        if outcome.is_printed or self.format == "junit":
            return
        if self.format == "json":
            self.stream.write(self._dumps(envelope(outcome), indent=2 if self.is_tty else None) + "\n")
        elif self.format == "yaml":
            import yaml

            self.stream.write(yaml.safe_dump(envelope(outcome), sort_keys=False, allow_unicode=self._is_unicode()))
        elif self.format == "name":
            self.stream.write("".join(f"{visible(name)}\n" for name in outcome.names))
        else:
            for at, block in enumerate(outcome.blocks):
                if at and isinstance(block, Table | Facts):
                    self.stream.write("\n")
                self._block(block)
        self.stream.flush()

    def event(self, type_: str, **facts: Any) -> None:
        """Write one JSON line of a watch; `seq` rises by one each time."""
        self._seq += 1
        self.stream.write(self._dumps({"type": type_, "seq": self._seq, **plain(facts)}) + "\n")
        self.stream.flush()

    def line(self, text: str) -> None:
        """Write one line of text."""
        self.stream.write(visible(text) + "\n")
        self.stream.flush()

    def raw(self, text: str) -> None:
        """Write text as it came: a log into a pipe. On a terminal its control characters are made visible."""
        self.stream.write(visible(text, multiline=True) if self.is_tty else text)
        self.stream.flush()

    def _dumps(self, value: object, indent: int | None = None) -> str:
        return json.dumps(value, indent=indent, ensure_ascii=not self._is_unicode(), allow_nan=False, default=str)

    def _is_unicode(self) -> bool:
        return (self.stream.encoding or "").lower().replace("-", "") == "utf8"

    def _block(self, block: Block) -> None:
        if isinstance(block, Text):
            self.stream.write(visible(block.text, multiline=True).rstrip("\n") + "\n")
        elif isinstance(block, Facts):
            width = max((len(name) for name, _ in block.pairs), default=0)
            for name, value in block.pairs:
                self.stream.write(f"{name.ljust(width)}  {visible(value)}".rstrip() + "\n")
        elif not block.rows:
            self.stream.write(f"{block.title + ': ' if block.title else ''}{block.empty}\n")
        elif self.is_tty:
            self._rich_table(block)
        else:
            self._plain_table(block)

    def _plain_table(self, table: Table) -> None:
        rows = [tuple(visible(cell) for cell in row) for row in table.rows]
        widths = [max(len(cell) for cell in column) for column in zip(table.header, *rows, strict=True)]
        if table.title:
            self.stream.write(table.title + "\n")
        for row in (table.header, *rows):
            cells = [
                cell.rjust(w) if i in table.right else cell.ljust(w)
                for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            ]
            self.stream.write("  ".join(cells).rstrip() + "\n")

    def _rich_table(self, table: Table) -> None:
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table as RichTable
        from rich.text import Text as RichText

        colour = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        drawn = RichTable(
            box=SIMPLE_HEAD, title=table.title or None, title_justify="left", pad_edge=False, show_edge=False
        )
        for i, name in enumerate(table.header):
            drawn.add_column(name, justify="right" if i in table.right else "left", overflow="fold")
        for row in table.rows:
            drawn.add_row(*(RichText(visible(cell), style=STYLES.get(cell, "") if colour else "") for cell in row))
        console = Console(
            file=self.stream,
            no_color=not colour,
            highlight=False,
            markup=False,
            color_system="auto" if colour else None,
        )
        console.print(drawn)


STYLES = {
    "FAIL": "bold red",
    "PASS": "green",
    "INCONCLUSIVE": "yellow",
    "NO_DATA": "yellow",
    "page": "bold red",
    "ticket": "yellow",
    "failed": "red",
    "gate_failed": "red",
    "succeeded": "green",
    "completed": "green",
    "rolled_back": "red",
    "rolling_back": "bold red",
    "paused": "yellow",
    "stuck": "bold red",
    "fail": "bold red",
    "warn": "yellow",
    "ok": "green",
}
"""Words that also have a colour on a terminal; never the colour alone."""
