"""The texts of a request's body, wherever OpenAI's formats and `/generate` put them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

CHARS_A_TOKEN = 4
"""What a token is taken to be long before a tokenizer has seen the text; the answer's usage puts it right."""
DEFAULT_COMPLETION_TOKENS = 16
"""What is set aside for an answer whose length the request does not bound (OpenAI's own default for completions)."""


def body_of(body: bytes) -> dict[str, Any]:
    """The body as an object; {} when it is none, which somebody else refuses."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def map_texts(body: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """A copy of the body with `change` applied to every text a model would read."""
    changed = dict(body)
    for field in ("prompt", "input", "suffix"):
        if field in changed:
            changed[field] = _map(changed[field], change)
    if isinstance(messages := changed.get("messages"), list):
        changed["messages"] = [
            {**message, "content": _map(message.get("content"), change)}
            if isinstance(message, dict) and "content" in message
            else message
            for message in messages
        ]
    return changed


def texts_of(body: dict[str, Any]) -> list[str]:
    """Every text a model would read, in order."""
    found: list[str] = []

    def note(text: str) -> str:
        found.append(text)
        return text

    map_texts(body, note)
    return found


def estimated_tokens(body: bytes) -> int:
    """Prompt and answer in tokens, before anybody has counted them."""
    value = body_of(body)
    prompt = sum(map(len, texts_of(value))) // CHARS_A_TOKEN + 1
    asked = value.get("max_completion_tokens", value.get("max_tokens"))
    is_number = isinstance(asked, int) and not isinstance(asked, bool) and 0 < asked < 1 << 24
    return prompt + (asked if is_number and isinstance(asked, int) else DEFAULT_COMPLETION_TOKENS)


def _map(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_map(item, change) for item in value]
    if isinstance(value, dict) and isinstance(value.get("text"), str):
        return {**value, "text": change(value["text"])}
    return value
