"""Log probabilities as OpenAI words them, in its two ways: for completions, and for chats."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from engine.serving.request import TokenLogprobs
from engine.serving.tokenizer import Tokenizer

_LOST = "\ufffd"


def completion_logprobs(news: Iterable[TokenLogprobs], tokenizer: Tokenizer, offset: int) -> tuple[dict[str, Any], int]:
    """The `logprobs` of a completion's choice; `offset` is where the first token stands in the text.

    Returns them, and the offset behind the last token.
    """
    tokens: list[str] = []
    values: list[float] = []
    top: list[dict[str, float]] = []
    offsets: list[int] = []
    for one in news:
        text = _text(one.token, tokenizer)
        tokens.append(text)
        values.append(one.logprob)
        # The chosen token is always among them, as OpenAI has it, so there may be one more than was asked for.
        likeliest = {_text(token, tokenizer): value for token, value in one.top}
        top.append({**likeliest, text: one.logprob})
        offsets.append(offset)
        offset += len(text)
    return {"tokens": tokens, "token_logprobs": values, "top_logprobs": top, "text_offset": offsets}, offset


def chat_logprobs(news: Iterable[TokenLogprobs], tokenizer: Tokenizer) -> dict[str, Any]:
    """The `logprobs` of a chat's choice."""
    content = [
        {
            **_token(one.token, one.logprob, tokenizer),
            "top_logprobs": [_token(token, value, tokenizer) for token, value in one.top],
        }
        for one in news
    ]
    return {"content": content, "refusal": None}


def _text(token: int, tokenizer: Tokenizer) -> str:
    """A token as it stands in an answer: decoded alone, some tokenizers drop the space it begins with."""
    stream = tokenizer.stream()
    return stream.push(token) + stream.flush()


def _token(token: int, logprob: float, tokenizer: Tokenizer) -> dict[str, Any]:
    text = _text(token, tokenizer)
    # A token that is a part of a character has bytes, but this text of it has lost them.
    return {"token": text, "logprob": logprob, "bytes": None if _LOST in text else list(text.encode())}
