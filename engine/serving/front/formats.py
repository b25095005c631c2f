"""The shapes of answers: OpenAI's two, whole or streamed, and the short one of /generate."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from engine.serving.front.intake import Ticket


@dataclass(frozen=True, slots=True)
class Envelope:
    """What every object of one answer repeats."""

    answer_id: str
    created: int
    model: str
    fingerprint: str

    def object(
        self, kind: str, choices: list[dict[str, Any]], usage: Mapping[str, int] | None = None
    ) -> dict[str, Any]:
        """One object of the answer."""
        body: dict[str, Any] = {
            "id": self.answer_id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        }
        if usage is not None:
            body["usage"] = dict(usage)
        return body


class Format(Protocol):
    """How one endpoint words its answers."""

    def whole(self, envelope: Envelope, text: str, ticket: Ticket) -> dict[str, Any]:
        """The answer of a request that did not stream."""
        ...

    def chunk(self, envelope: Envelope, text: str, finish: str | None, is_first: bool) -> dict[str, Any]:
        """One event of a stream."""
        ...

    def closing(self, envelope: Envelope, ticket: Ticket) -> dict[str, Any]:
        """The event with the usage, when it was asked for."""
        ...


def usage(ticket: Ticket) -> dict[str, int]:
    """Tokens in, out, and together."""
    prompt, completion = len(ticket.call.tokens), ticket.completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


class CompletionFormat:
    """/v1/completions."""

    def whole(self, envelope: Envelope, text: str, ticket: Ticket) -> dict[str, Any]:
        """See Format."""
        return envelope.object("text_completion", [self._choice(text, ticket.finish)], usage(ticket))

    def chunk(self, envelope: Envelope, text: str, finish: str | None, is_first: bool) -> dict[str, Any]:
        """See Format."""
        return envelope.object("text_completion", [self._choice(text, finish)])

    def closing(self, envelope: Envelope, ticket: Ticket) -> dict[str, Any]:
        """See Format."""
        return envelope.object("text_completion", [], usage(ticket))

    @staticmethod
    def _choice(text: str, finish: str | None) -> dict[str, Any]:
        return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}


class ChatFormat:
    """/v1/chat/completions."""

    def whole(self, envelope: Envelope, text: str, ticket: Ticket) -> dict[str, Any]:
        """See Format."""
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": ticket.finish}
        return envelope.object("chat.completion", [choice], usage(ticket))

    def chunk(self, envelope: Envelope, text: str, finish: str | None, is_first: bool) -> dict[str, Any]:
        """See Format."""
        delta = {"role": "assistant", "content": text} if is_first else {"content": text}
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return envelope.object("chat.completion.chunk", [choice])

    def closing(self, envelope: Envelope, ticket: Ticket) -> dict[str, Any]:
        """See Format."""
        return envelope.object("chat.completion.chunk", [], usage(ticket))


class GenerateFormat:
    """/generate."""

    def whole(self, envelope: Envelope, text: str, ticket: Ticket) -> dict[str, Any]:
        """See Format."""
        return {"text": text, "tokens_generated": ticket.completion_tokens}

    def chunk(self, envelope: Envelope, text: str, finish: str | None, is_first: bool) -> dict[str, Any]:
        """See Format."""
        return {"text": text, "finish_reason": finish}

    def closing(self, envelope: Envelope, ticket: Ticket) -> dict[str, Any]:
        """See Format."""
        return self.whole(envelope, "", ticket)


def event(body: Mapping[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
