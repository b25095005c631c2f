"""What can be said of a text by counting: its size, its characters, and how well one could guess them blindly."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LONGEST_WORD = 400
"""A record with a longer run of characters without white space is a blob (base64, minified code), not prose."""
_ODD = re.compile("[\x00-\x08\x0b\x0d-\x1f\x7f-\x9f\ufffd]")
MAX_ODD_SHARE = 0.02
"""The largest share of characters in a record that may be controls or replacement marks of a failed decoding."""


@dataclass(frozen=True, slots=True)
class TextStatistics:
    """Counts over one text. `entropy_bits` is Shannon's, of single characters: bits a character."""

    chars: int
    lines: int
    words: int
    distinct_chars: int
    non_ascii_share: float
    entropy_bits: float

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


def statistics_of(text: str) -> TextStatistics:
    """Count `text`. An empty text has entropy 0."""
    counts = Counter(text)
    chars = len(text)
    entropy = -sum(n / chars * math.log2(n / chars) for n in counts.values()) if chars else 0.0
    return TextStatistics(
        chars=chars,
        lines=text.count("\n") + 1 if text else 0,
        words=len(text.split()),
        distinct_chars=len(counts),
        non_ascii_share=sum(n for char, n in counts.items() if ord(char) > 127) / chars if chars else 0.0,
        entropy_bits=entropy + 0.0,
    )


def outlier_reason(text: str) -> str | None:
    """Why a record is no running text, or None: `odd_characters` or `blob`."""
    if len(_ODD.findall(text)) > MAX_ODD_SHARE * len(text):
        return "odd_characters"
    if len(text) > LONGEST_WORD and any(len(word) > LONGEST_WORD for word in text.split()):
        return "blob"
    return None


@dataclass(frozen=True, slots=True)
class Unigram:
    """The baseline that knows only how often each character occurs: add-one smoothed counts of a training text."""

    counts: Mapping[str, int]
    total: int
    vocab_size: int

    @classmethod
    def train(cls, text: str, vocab_size: int) -> Unigram:
        """Counts of `text`; `vocab_size` characters share the smoothing."""
        return cls(Counter(text), len(text), vocab_size)

    def nats(self, char: str) -> float:
        """The surprise at `char`, -ln p; a character never seen costs ln(total + vocab_size)."""
        return math.log((self.total + self.vocab_size) / (self.counts.get(char, 0) + 1))
