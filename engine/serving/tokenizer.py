"""Text to token ids and back, one id a character.

A character the model never saw becomes the tokenizer's replacement: U+FFFD if the vocabulary has it,
else "?", else a space, else the first character. Encoding therefore never fails, and decoding what was
encoded shows the reader where something was lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

REPLACEMENTS = ("\ufffd", "?", " ")
"""Stand-ins for an unknown character, in order of preference."""


class TextStream(Protocol):
    """Turns one answer's tokens into text as they come. A token may end in the middle of a character."""

    def push(self, token: int) -> str:
        """The text that `token` completes; "" while a character is still incomplete."""
        ...

    def flush(self) -> str:
        """What is left at the answer's end, incomplete characters replaced."""
        ...


class Tokenizer(Protocol):
    """Text to tokens and back, as the front and the engine use it. Knows nothing of torch."""

    @property
    def vocab_size(self) -> int:
        """How many ids there are."""
        ...

    @property
    def unknown_id(self) -> int:
        """A token that is always valid: what unknown text becomes, and what a warm-up begins with."""
        ...

    @property
    def eos_ids(self) -> frozenset[int]:
        """Tokens that end an answer; they are never shown."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of a text, as a prompt begins."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids."""
        ...

    def stream(self) -> TextStream:
        """A new answer's decoder."""
        ...

    def chat_tokens(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Ids of a conversation of {"role", "content"} turns, up to where the assistant begins to speak."""
        ...


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

    @property
    def eos_ids(self) -> frozenset[int]:
        """None: a character model ends when its caller has had enough."""
        return frozenset()

    def stream(self) -> TextStream:
        """A token is a character, so there is never anything to hold back."""
        return _CharStream(self.chars)

    def chat_tokens(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """The turns' texts joined by newlines: a character model has no chat template."""
        return self.encode("\n".join(str(message["content"]) for message in messages))

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
            raise ValueError(
                f"tokenizer type is {value.get('type')!r}; this model server knows 'char', and Hugging Face's tokenizer.json"
            )
        chars = value.get("chars")
        if not chars or not isinstance(chars, list):
            raise ValueError("'chars' must be a list of characters")
        return cls(chars)

    def to_json(self) -> dict[str, Any]:
        """What `tokenizer.json` holds."""
        return {"type": "char", "chars": list(self.chars)}


class _CharStream:
    """The TextStream of a CharTokenizer."""

    __slots__ = ("_chars",)

    def __init__(self, chars: Sequence[str]) -> None:
        self._chars = chars

    def push(self, token: int) -> str:
        """See TextStream."""
        return self._chars[token]

    def flush(self) -> str:
        """See TextStream."""
        return ""
