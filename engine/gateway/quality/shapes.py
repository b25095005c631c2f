"""What kind of text is asked and answered, as counts: a line each few seconds for the engine, which looks for drift. No text is kept."""

from __future__ import annotations

import json
from typing import NamedTuple

from engine.gateway.access.prompt import TooDeep, body_of, texts_of
from engine.text_shape import Shape

EVERY_S = 5.0
MOST_CHARS = 20_000
"""Of a text, so much is counted."""


class ShapeKey(NamedTuple):
    """Whose texts: `what` is prompt or answer."""

    service: str
    env: str
    release: str
    what: str


class Shapes:
    """The open interval's counts. All methods belong to the event loop's thread but `shape`."""

    def __init__(self) -> None:
        self._open: dict[ShapeKey, Shape] = {}
        self._since = 0.0

    def add(self, key: ShapeKey, text: str) -> None:
        """Count one text."""
        self._open.setdefault(key, Shape()).add(text[:MOST_CHARS])

    def line(self, now: float) -> str | None:
        """The interval's counts as a line of JSON, when it is time and there are some."""
        if now - self._since < EVERY_S or not self._open:
            return None
        rows = [{**key._asdict(), **shape.to_json()} for key, shape in self._open.items()]
        self._open, self._since = {}, now
        return json.dumps({"at": round(now, 3), "rows": rows}, separators=(",", ":"))


def prompt_text(body: bytes) -> str:
    """The texts of a request in one: of a conversation, the last message; "" where there is none to read."""
    try:
        texts = texts_of(body_of(body))
    except TooDeep:
        return ""
    return texts[-1] if texts else ""
