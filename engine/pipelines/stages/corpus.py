"""Records: paragraphs of documents, each in the training or the held-out split by a hash of its own text.

The split depends on nothing but the paragraph, so it is the same whatever stands around it: text held out once stays
held out when the corpus grows, a duplicate never sits on both sides, and a baseline may be scored on a newer corpus.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

TRAIN = "train"
HELDOUT = "heldout"
SPLITS = (TRAIN, HELDOUT)
LONGEST = 2_000
"""A paragraph of more characters is cut, so that a text without blank lines has a held-out part too."""
_BLANK_LINES = re.compile(r"\n(?:[ \t]*\n)+")


@dataclass(frozen=True, slots=True)
class Record:
    """One paragraph. `text` is None when its document has no text."""

    document: str
    position: int
    split: str
    text: str | None

    def to_json(self) -> dict[str, Any]:
        """The record as it stands in a file."""
        return asdict(self)


def split_of(text: str, heldout_pct: int) -> str:
    """Which split a paragraph belongs to; white space and case do not matter."""
    key = " ".join(text.split()).casefold()
    place = int.from_bytes(hashlib.sha256(key.encode("utf-8")).digest()[:8]) % 100
    return HELDOUT if place < heldout_pct else TRAIN


def paragraphs(text: str) -> Iterator[str]:
    """The parts of a text between blank lines, the long ones cut at line ends, or at spaces where a line is long."""
    for part in _BLANK_LINES.split(text):
        part = part.strip("\n")
        if part.strip():
            yield from _cut(part) if len(part) > LONGEST else (part,)


def _cut(part: str) -> Iterator[str]:
    held = ""
    for line in part.split("\n"):
        if held and len(held) + 1 + len(line) > LONGEST:
            yield held
            held = ""
        held = f"{held}\n{line}" if held else line
        while len(held) > LONGEST:
            place = held.rfind(" ", LONGEST // 2, LONGEST) + 1 or LONGEST
            yield held[:place]
            held = held[place:]
    if held:
        yield held


def records_of(documents: Iterable[Mapping[str, Any]], heldout_pct: int) -> Iterator[Record]:
    """The records of `documents` ({"name", "text"}). A document without text is one record without text."""
    for document in documents:
        name, text = str(document["name"]), document["text"]
        parts = list(paragraphs(text)) if isinstance(text, str) else []
        if not parts:
            yield Record(name, 0, TRAIN, None)
        for position, part in enumerate(parts):
            yield Record(name, position, split_of(part, heldout_pct), part)


def write_lines(path: Path, values: Iterable[Mapping[str, Any]]) -> None:
    """One JSON object a line."""
    with path.open("w", encoding="utf-8") as file:
        for value in values:
            file.write(json.dumps(value, ensure_ascii=False, sort_keys=True) + "\n")


def read_lines(path: Path) -> Iterator[Any]:
    """The values of a JSON-lines file, whatever they are; a line that is no JSON is None."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            try:
                yield json.loads(line)
            except ValueError:
                yield None
