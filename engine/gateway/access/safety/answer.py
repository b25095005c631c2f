"""The texts of an answer: whole, or an event of a stream, wherever OpenAI's formats and `/generate` put them. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Channel = tuple[int, str]
"""(choice, field): the pieces of one channel make one text."""
_NESTED = ("message", "delta")
_FIELDS = ("content", "reasoning_content")


@dataclass(slots=True)
class Place:
    """Where a text stands: `holder[field]`."""

    channel: Channel
    holder: dict[str, Any]
    field: str

    @property
    def text(self) -> str:
        """The text there."""
        return str(self.holder[self.field])


def places_in(body: Any) -> Iterator[Place]:
    """Every place in an answer's JSON that a reader gets to see."""
    if not isinstance(body, dict):
        return
    if isinstance(body.get("text"), str):
        yield Place((0, "text"), body, "text")
    choices = body.get("choices")
    for number, choice in enumerate(choices if isinstance(choices, list) else ()):
        if not isinstance(choice, dict):
            continue
        index = choice.get("index")
        index = index if isinstance(index, int) else number
        if isinstance(choice.get("text"), str):
            yield Place((index, "text"), choice, "text")
        for nest in _NESTED:
            inner = choice.get(nest)
            if isinstance(inner, dict):
                for field in _FIELDS:
                    if isinstance(inner.get(field), str):
                        yield Place((index, field), inner, field)


def data_of(event: bytes) -> bytes:
    """The data of a server-sent event, its lines joined; b"" when it has none (a comment, say)."""
    lines = (line.rstrip(b"\r") for line in event.split(b"\n"))
    return b"\n".join(line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:"))


def json_of(data: bytes) -> Any:
    """The value that `data` states; None when it is no JSON ("[DONE]")."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def with_texts(places: list[Place], texts: list[str]) -> None:
    """Put `texts` in their places."""
    for place, text in zip(places, texts, strict=True):
        place.holder[place.field] = text


def drop_logprobs(body: Any) -> None:
    """Forget the tokens that stand beside a text which was redacted: they spell it out."""
    for choice in body.get("choices") or () if isinstance(body, dict) else ():
        if isinstance(choice, dict) and choice.get("logprobs") is not None:
            choice["logprobs"] = None


def encoded(body: Any) -> bytes:
    """JSON as compact bytes."""
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode(errors="surrogatepass")
