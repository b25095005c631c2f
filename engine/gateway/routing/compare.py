"""How far two answers to one request lie apart, in numbers that hold no text. Pure."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass, field
from typing import Any

SAMPLE_BYTES = 64 << 10
"""Of each answer, so much is looked at."""
MAX_WORDS = 256
"""Words of each text that are compared: the comparison is quadratic in them."""


@dataclass(slots=True, eq=False)
class Sample:
    """What is kept of an answer while it passes: its length, and its beginning, up to `limit` bytes."""

    limit: int = SAMPLE_BYTES
    length: int = 0
    head: bytearray = field(default_factory=bytearray)

    def add(self, chunk: bytes) -> None:
        """See one chunk of the answer."""
        self.length += len(chunk)
        if (room := self.limit - len(self.head)) > 0:
            self.head += chunk[:room]


def text_distance(ours: bytes, theirs: bytes) -> float | None:
    """0 for the same text, 1 for nothing in common, by words; None where either answer shows no text."""
    a, b = text_of(ours), text_of(theirs)
    if a is None or b is None:
        return None
    if a == b:
        return 0.0
    matcher = difflib.SequenceMatcher(None, a.split()[:MAX_WORDS], b.split()[:MAX_WORDS], autojunk=False)
    return round(1 - matcher.ratio(), 4)


def text_of(body: bytes) -> str | None:
    """The text that an answer generated, whole or as events; None when it is no such answer."""
    if body.startswith(b"data:"):
        values = [_parsed(line[5:]) for line in body.split(b"\n") if line.startswith(b"data:")]
    else:
        values = [_parsed(body)]
    texts = [text for value in values if (text := _text(value)) is not None]
    return "".join(texts) if texts else None


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None  # [DONE], or the last event of a sample that ends within it


def _text(value: Any) -> str | None:
    if not isinstance(value, dict):
        return None
    choices = value.get("choices")
    if not isinstance(choices, list):
        return value["text"] if isinstance(value.get("text"), str) else None
    first = choices[0] if choices else None
    if not isinstance(first, dict):
        return None
    message = first.get("message") or first.get("delta")
    found = message.get("content") if isinstance(message, dict) else first.get("text")
    return found if isinstance(found, str) else None
