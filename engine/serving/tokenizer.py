"""Text to token ids and back, one id a character.

A character the model never saw becomes the tokenizer's replacement: U+FFFD if the vocabulary has it,
else "?", else a space, else the first character. Encoding therefore never fails, and decoding what was
encoded shows the reader where something was lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

REPLACEMENTS = ("\ufffd", "?", " ")
"""Stand-ins for an unknown character, in order of preference."""


class CharTokenizer:
    """A vocabulary of single characters; a character's id is its place in `chars`."""

    def __init__(self, chars: Iterable[str]) -> None:
        self.chars = list(chars)
        if not self.chars:
            raise ValueError("the vocabulary is empty")
        if any(not isinstance(char, str) or len(char) != 1 for char in self.chars):
            raise ValueError("every entry of the vocabulary must be one character")
        self._ids = {char: index for index, char in enumerate(self.chars)}
        if len(self._ids) != len(self.chars):
            raise ValueError("the vocabulary names a character twice")
        self.unknown_id = next((self._ids[char] for char in REPLACEMENTS if char in self._ids), 0)

    @property
    def vocab_size(self) -> int:
        """How many ids there are."""
        return len(self.chars)

    @classmethod
    def train(cls, text: str) -> CharTokenizer:
        """The vocabulary of a text: its characters, sorted, so that equal texts give equal ids."""
        return cls(sorted(set(text)))

    def encode(self, text: str) -> list[int]:
        """Ids of a text; unknown characters become `unknown_id`."""
        unknown = self.unknown_id
        return [self._ids.get(char, unknown) for char in text]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids. Raises IndexError on an id outside the vocabulary."""
        return "".join(self.chars[index] for index in ids)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> CharTokenizer:
        """The value of `tokenizer.json`. Raises ValueError if it is not a character vocabulary."""
        if value.get("type") != "char":
            raise ValueError(f"tokenizer type is {value.get('type')!r}; this model server knows 'char'")
        chars = value.get("chars")
        if not chars or not isinstance(chars, list):
            raise ValueError("'chars' must be a list of characters")
        return cls(chars)

    def to_json(self) -> dict[str, Any]:
        """What `tokenizer.json` holds."""
        return {"type": "char", "chars": list(self.chars)}
