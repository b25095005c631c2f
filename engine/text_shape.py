"""What is counted of a text so that its kind can be compared with another's, without keeping the text. Standard library only.

The counts are of single characters and of one number a text; nobody gets a text back from sums over hundreds of them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

PIECE = 100
"""Characters of a text that its word length is taken of: live texts and pieces of the training text are alike in length then."""
WORD_BINS = 40
_BLOCKS = 64


def char_bin(char: str) -> int:
    """0..127 for ASCII, letters in lower case; above, one of 64 for the character's neighbourhood in Unicode."""
    code = ord(char.lower()[0])
    return code if code < 128 else 128 + (code >> 7) % _BLOCKS


def word_bin(text: str) -> int | None:
    """The mean length of the words at the text's beginning, in half characters; None without words."""
    words = text[:PIECE].split()
    return min(WORD_BINS - 1, 2 * sum(map(len, words)) // len(words)) if words else None


@dataclass(slots=True)
class Shape:
    """Sums over texts: characters by `char_bin`, texts by `word_bin`."""

    texts: int = 0
    chars: Counter[int] = field(default_factory=Counter)
    words: Counter[int] = field(default_factory=Counter)

    def add(self, text: str) -> None:
        """Count one text."""
        self.texts += 1
        for char, count in Counter(text).items():
            self.chars[char_bin(char)] += count
        if (at := word_bin(text)) is not None:
            self.words[at] += 1

    def to_json(self) -> dict[str, object]:
        """As a line has it."""
        return {"texts": self.texts, "chars": dict(self.chars), "words": dict(self.words)}


def shape_of_corpus(text: str) -> Shape:
    """The shape of a training text, cut in pieces that begin at a word."""
    shape = Shape()
    at = 0
    while at < len(text):
        piece = text[at : at + PIECE]
        shape.add(piece)
        at += PIECE
        while at < len(text) and not text[at - 1].isspace():  # a word cut in two would look short
            shape.chars[char_bin(text[at])] += 1
            at += 1
    return shape
