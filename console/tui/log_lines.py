"""Log lines as a person reads them: a JSON line as its time and facts, any other line as it is. Pure."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from typing import Any

from console.tui.scene import ReplicaLogs
from console.tui.signs import sign
from console.tui.text import Line, clock, line, number, stamp
from engine.api.schemas import LogChunk

KEPT_LINES = 5000
FIRST_LOOK = 48 * 1024
"""Bytes from the end of a log that are shown first."""
LONGEST_JSON = 8192
_LOUD = (("error", "bad"), ("traceback", "bad"), ("fail", "bad"), ("warn", "warn"))
_SAID = ("message", "msg", "event")
_FIRST = ("step", "done", "loss")
NOT_SHOWN = frozenset(
    {"at", "ts", "time", "timestamp", "stage", "level", "steps", "total", "loss_curve", "why", *_SAID}
)
"""Keys that are shown elsewhere on the screen, or are no news in a line of their own."""


def log_line(text: str) -> Line:
    """A line of a log; loud words give it a tone, nothing in it is markup."""
    if text.startswith("{") and text.endswith("}") and len(text) <= LONGEST_JSON:
        try:
            facts = json.loads(text)
        except ValueError:
            facts = None
        if isinstance(facts, dict):
            return _facts_line(facts)
    return line(" ", (text, _tone(text[:400])))


def _tone(text: str) -> str:
    low = text.lower()
    return next((tone for word, tone in _LOUD if word in low), "")


def _facts_line(facts: Mapping[str, Any]) -> Line:
    at = next((facts[k] for k in ("at", "ts", "time") if isinstance(facts.get(k), int | float)), None)
    said = " ".join(str(facts[k]) for k in _SAID if facts.get(k))
    spans: list[tuple[str, str]] = [
        (f" {clock(at)}  " if at is not None else " ", "dim"),
        (f"{said}  " if said else "", _tone(f"{facts.get('level', '')} {said}")),
    ]
    for key, value in shown_facts(facts):
        spans += [(f"{key} ", "dim"), (f"{value}  ", "")]
    return line(*spans)


def shown_facts(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Key and value of what is worth a place on a line; `step` with its total."""
    found = []
    for key, value in facts.items():
        if key in NOT_SHOWN or isinstance(value, list | dict) or value in (None, ""):
            continue
        whole = facts.get({"step": "steps", "done": "total"}.get(key, ""))
        found.append((key, f"{number(value)}/{number(whole)}" if whole is not None else number(value)))
    return sorted(found, key=lambda pair: _FIRST.index(pair[0]) if pair[0] in _FIRST else len(_FIRST))


class LogTail:
    """The last lines of a growing file, fed by pieces."""

    def __init__(self) -> None:
        self.lines: deque[Line] = deque(maxlen=KEPT_LINES)
        self.offset = -FIRST_LOOK
        """Where the next piece begins; negative, from the end, until the first has come."""
        self._rest = ""

    def feed(self, chunk: LogChunk) -> bool:
        """Take a piece if it is the next one; True if something was added."""
        if self.offset < 0:
            if chunk.next_offset == 0:
                return False
        elif chunk.offset != self.offset or chunk.next_offset <= self.offset:
            return False
        *whole, self._rest = (self._rest + chunk.text).split("\n")
        if self.offset < 0 < chunk.offset:
            whole = [f"… {chunk.offset:,} earlier bytes are in the file", *whole[1:]]
        self.lines.extend(log_line(text) for text in whole)
        self.offset = chunk.next_offset
        return True

    def shown(self) -> list[Line]:
        """The lines, with the one that is not ended yet."""
        return [*self.lines, log_line(self._rest)] if self._rest else list(self.lines)


def replica_log_lines(found: ReplicaLogs, wanted: str = "") -> list[Line]:
    """The logs one below the other, the newest replica last; only lines with the text `wanted`, if one is given."""
    lines: list[Line] = []
    for one in reversed(found.logs):
        texts = [text for text in one.text.splitlines() if wanted.lower() in text.lower()]
        if wanted and not texts:
            continue
        ended = f"  ended {stamp(one.ended_at)} UTC: {one.end_cause or 'cause unknown'}" if one.ended_at else ""
        head = line(
            ("── ", "frame"), (one.id, "title"), (f"  {one.release_id}  ", "strong"), *sign(one.state),
            (f"  begun {stamp(one.started_at)} UTC", "dim"), (ended, "warn"),
        )  # fmt: skip
        lines += [*([()] if lines else []), head, *(log_line(text) for text in texts)]
        if not texts:
            lines.append(line((" it wrote nothing", "dim")))
    return lines
