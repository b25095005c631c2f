"""Subword tokenizers as Hugging Face stores them: `tokenizer.json` run by the `tokenizers` library, and a chat template.

The class is named for what nearly all of them are; whatever model `tokenizer.json` declares is what runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tokenizers

from engine.serving.chat import ChatTemplate, special_tokens, template_source
from engine.serving.tokenizer import TextStream

_INCOMPLETE = "\ufffd"
_LONG_TEXT = 4096
"""Characters from which a text is encoded without the interpreter's lock: a megabyte takes a second or two."""
_LONGEST_WAIT = 8
"""Tokens that may wait for their character to be whole. UTF-8 needs four; more is not text and is shown as it is."""


class BpeTokenizer:
    """The `Tokenizer` of a model with a `tokenizer.json`."""

    def __init__(
        self,
        model: tokenizers.Tokenizer,
        *,
        eos_ids: Iterable[int] = (),
        template: ChatTemplate | None = None,
        first_id: int | None = None,
    ) -> None:
        # Padding and truncation are training's; a prompt that is too long is refused by the front, not cut off here.
        model.no_padding()
        model.no_truncation()
        self._model = model
        self._eos_ids = frozenset(eos_ids)
        self._template = template
        self.unknown_id = first_id if first_id is not None else 0
        # The highest id, not the count: added tokens may leave gaps.
        self._vocab_size = max(model.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        # Decoders such as SentencePiece's drop the space before a text's first word. An answer goes on from a prompt,
        # so its pieces are decoded behind a word that is then taken away.
        self._before = model.encode("a", add_special_tokens=False).ids[-1:]
        self._before_text = model.decode(self._before)

    @classmethod
    def from_files(
        cls, tokenizer: str, config: Mapping[str, Any], *, template: str | None = None, eos_ids: Iterable[int] = ()
    ) -> BpeTokenizer:
        """From the text of `tokenizer.json`, the value of `tokenizer_config.json` and the text of `chat_template.jinja`.

        `eos_ids` come on top of the tokenizer's own eos_token. Raises ValueError when a file cannot be used.
        """
        try:
            model = tokenizers.Tokenizer.from_str(tokenizer)
        except Exception as error:
            # The library raises bare Exception for whatever is wrong with the file.
            raise ValueError(f"the tokenizers library cannot read it: {error}") from error
        special = special_tokens(config)
        source = template_source(config, template)
        ids = {name: model.token_to_id(text) for name, text in special.items()}
        ends = {*eos_ids, *(token for name, token in ids.items() if name == "eos_token" and token is not None)}
        known = (ids.get(name) for name in ("bos_token", "unk_token", "eos_token"))
        return cls(
            model,
            eos_ids=ends,
            template=ChatTemplate(source, special) if source is not None else None,
            first_id=next((token for token in known if token is not None), None),
        )

    @property
    def vocab_size(self) -> int:
        """See Tokenizer. The model's own may be larger: its rows are often padded to a round number."""
        return self._vocab_size

    @property
    def eos_ids(self) -> frozenset[int]:
        """See Tokenizer."""
        return self._eos_ids

    def encode(self, text: str) -> list[int]:
        """See Tokenizer. What `tokenizer.json` puts before a text (often a begin token) is put before this one."""
        return self._ids(text, with_special=True)

    def decode(self, ids: Iterable[int]) -> str:
        """See Tokenizer. As a text of its own, special tokens left out; an answer is decoded by `stream`."""
        text: str = self._model.decode(list(ids), skip_special_tokens=True)
        return text

    def stream(self) -> TextStream:
        """See Tokenizer."""
        return _BpeStream(self._model, self._before, self._before_text)

    def chat_tokens(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """See Tokenizer. Without a template, the turns' texts joined by newlines.

        Raises ValueError when the template refuses the conversation.
        """
        if self._template is None:
            return self.encode("\n".join(str(message["content"]) for message in messages))
        return self._ids(self._template.render(messages), with_special=False)

    def _ids(self, text: str, *, with_special: bool) -> list[int]:
        try:
            text.encode()
        except UnicodeEncodeError:
            # JSON can carry half of a surrogate pair, which is no character.
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if len(text) < _LONG_TEXT:
            ids: list[int] = self._model.encode(text, add_special_tokens=with_special).ids
            return ids
        # `encode` keeps the lock, and with it every other thread, for as long as it takes; a batch's call lets go.
        (encoded,) = self._model.encode_batch([text], add_special_tokens=with_special)
        ids = encoded.ids
        return ids


class _BpeStream:
    """The TextStream of a BpeTokenizer.

    What a token adds can depend on the one before it (joined bytes, spaces), so the pieces since the last whole text
    are decoded with and without the new ones, and the difference is shown: vLLM's and TGI's method.
    """

    __slots__ = ("_known", "_known_text", "_model", "_new")

    def __init__(self, model: tokenizers.Tokenizer, before: Sequence[int], before_text: str) -> None:
        self._model = model
        self._known = list(before)
        self._known_text = before_text
        self._new: list[int] = []

    def push(self, token: int) -> str:
        """See TextStream."""
        self._new.append(token)
        text: str = self._model.decode([*self._known, *self._new], skip_special_tokens=True)
        if text.endswith(_INCOMPLETE) and len(self._new) < _LONGEST_WAIT:
            return ""
        return self._show(text)

    def flush(self) -> str:
        """See TextStream."""
        if not self._new:
            return ""
        return self._show(self._model.decode([*self._known, *self._new], skip_special_tokens=True))

    def _show(self, text: str) -> str:
        added = text[len(self._known_text) :]
        if added:
            # What is known now need only be the tokens that made the last text: the next is decoded behind them.
            self._known, self._new = self._new, []
            self._known_text = self._model.decode(self._known, skip_special_tokens=True)
        else:
            # A special token shows nothing; dropping it keeps what stands before the next piece a word.
            self._new = []
        return added
