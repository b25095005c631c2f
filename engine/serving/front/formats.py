"""The shapes of answers: OpenAI's two, whole or streamed, and the short one of /generate.

A form is made for one answer, because a stream has a memory: which choices have begun, and where the text stands.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from engine.serving.front.calls import Call
from engine.serving.front.logprobs import chat_logprobs, completion_logprobs
from engine.serving.front.ticket import Piece
from engine.serving.request import FinishReason, TokenLogprobs
from engine.serving.tokenizer import Tokenizer


@dataclass(slots=True)
class Result:
    """One whole generation."""

    index: int
    text: str = ""
    finish: FinishReason | None = None
    logprobs: list[TokenLogprobs] = field(default_factory=list)

    def add(self, piece: Piece) -> None:
        """Append what came."""
        self.text += piece.text
        self.finish = piece.finish or self.finish
        self.logprobs.extend(piece.logprobs)

    @property
    def score(self) -> float:
        """Mean log probability of a token, by which `best_of` ranks."""
        return sum(one.logprob for one in self.logprobs) / max(1, len(self.logprobs))


def best(results: Sequence[Result], call: Call) -> list[Result]:
    """The `n` likeliest answers to each prompt, numbered anew."""
    if call.best_of == call.n:
        return list(results)
    chosen: list[Result] = []
    for start in range(0, len(results), call.best_of):
        ranked = sorted(results[start : start + call.best_of], key=lambda result: -result.score)
        for result in ranked[: call.n]:
            result.index = len(chosen)
            chosen.append(result)
    return chosen


@dataclass(frozen=True, slots=True)
class Envelope:
    """What every object of one answer repeats, and what its form must know."""

    answer_id: str
    created: int
    model: str
    fingerprint: str
    call: Call
    tokenizer: Tokenizer

    def object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """One object of the answer."""
        return {
            "id": self.answer_id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        }

    def prompt_text(self, index: int) -> str:
        """What `echo` puts before the text of choice `index`."""
        return self.call.prompts[index // self.call.n].text if self.call.echo else ""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of an answer."""

    prompt: int
    completion: int
    cached: int
    """Of the prompt's, those that had been computed before."""

    def body(self) -> dict[str, Any]:
        """As OpenAI words it."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }


class Form(Protocol):
    """How one endpoint words one answer."""

    def whole(self, results: Sequence[Result], usage: Usage) -> dict[str, Any]:
        """The answer of a request that did not stream."""
        ...

    def chunk(self, piece: Piece) -> dict[str, Any]:
        """One event of a stream."""
        ...

    def closing(self, usage: Usage) -> dict[str, Any] | None:
        """The last event, with the token counts, when there is to be one."""
        ...


class CompletionForm:
    """/v1/completions."""

    def __init__(self, envelope: Envelope) -> None:
        self._envelope = envelope
        self._offsets: dict[int, int] = {}

    def whole(self, results: Sequence[Result], usage: Usage) -> dict[str, Any]:
        """See Form."""
        choices = [self._choice(result.index, result.text, result.finish, result.logprobs) for result in results]
        return {**self._envelope.object("text_completion", choices), "usage": usage.body()}

    def chunk(self, piece: Piece) -> dict[str, Any]:
        """See Form."""
        choice = self._choice(piece.index, piece.text, piece.finish, piece.logprobs)
        return _with_usage(self._envelope, self._envelope.object("text_completion", [choice]))

    def closing(self, usage: Usage) -> dict[str, Any] | None:
        """See Form."""
        return _closing(self._envelope, "text_completion", usage)

    def _choice(
        self, index: int, text: str, finish: FinishReason | None, news: Sequence[TokenLogprobs]
    ) -> dict[str, Any]:
        if index not in self._offsets:
            self._offsets[index] = 0
            text = self._envelope.prompt_text(index) + text
        logprobs = None
        if self._envelope.call.logprobs is not None:
            logprobs, self._offsets[index] = completion_logprobs(news, self._envelope.tokenizer, self._offsets[index])
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}


class ChatForm:
    """/v1/chat/completions."""

    def __init__(self, envelope: Envelope) -> None:
        self._envelope = envelope
        self._begun: set[int] = set()

    def whole(self, results: Sequence[Result], usage: Usage) -> dict[str, Any]:
        """See Form."""
        choices = [
            {
                "index": result.index,
                "message": {"role": "assistant", "content": result.text},
                "logprobs": self._logprobs(result.logprobs),
                "finish_reason": result.finish,
            }
            for result in results
        ]
        return {**self._envelope.object("chat.completion", choices), "usage": usage.body()}

    def chunk(self, piece: Piece) -> dict[str, Any]:
        """See Form. A choice's first event names the role."""
        role = {} if piece.index in self._begun else {"role": "assistant"}
        self._begun.add(piece.index)
        choice = {
            "index": piece.index,
            "delta": {**role, "content": piece.text},
            "logprobs": self._logprobs(piece.logprobs),
            "finish_reason": piece.finish,
        }
        return _with_usage(self._envelope, self._envelope.object("chat.completion.chunk", [choice]))

    def closing(self, usage: Usage) -> dict[str, Any] | None:
        """See Form."""
        return _closing(self._envelope, "chat.completion.chunk", usage)

    def _logprobs(self, news: Sequence[TokenLogprobs]) -> dict[str, Any] | None:
        if self._envelope.call.logprobs is None:
            return None
        return chat_logprobs(news, self._envelope.tokenizer)


class GenerateForm:
    """/generate. As in the API it comes from, the text begins with the prompt, unless `echo` is false."""

    def __init__(self, envelope: Envelope) -> None:
        self._envelope = envelope
        self._has_begun = False

    def whole(self, results: Sequence[Result], usage: Usage) -> dict[str, Any]:
        """See Form."""
        return {"text": self._envelope.prompt_text(0) + results[0].text, "tokens_generated": usage.completion}

    def chunk(self, piece: Piece) -> dict[str, Any]:
        """See Form."""
        text = piece.text if self._has_begun else self._envelope.prompt_text(0) + piece.text
        self._has_begun = True
        return {"text": text, "finish_reason": piece.finish}

    def closing(self, usage: Usage) -> dict[str, Any] | None:
        """See Form."""
        return {"text": "", "tokens_generated": usage.completion}


def _with_usage(envelope: Envelope, body: dict[str, Any]) -> dict[str, Any]:
    """OpenAI says `usage: null` in every event before the last, when the last one has it."""
    return {**body, "usage": None} if envelope.call.include_usage else body


def _closing(envelope: Envelope, kind: str, usage: Usage) -> dict[str, Any] | None:
    if not envelope.call.include_usage:
        return None
    return {**envelope.object(kind, []), "usage": usage.body()}


def event(body: Mapping[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
