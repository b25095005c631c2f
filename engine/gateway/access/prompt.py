"""The texts of a request's body, wherever OpenAI's formats and `/generate` put them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from engine.gateway.answers import Refused, error_answer

CHARS_A_TOKEN = 4
"""What a token is taken to be long before a tokenizer has seen the text; the answer's usage puts it right."""
DEFAULT_COMPLETION_TOKENS = 16
"""What is set aside for an answer whose length the request does not bound (OpenAI's own default for completions)."""

MAX_DEPTH = 16
"""Lists in lists that a prompt may be made of; no format has more than two."""

_TOO_DEEP = f"its texts are nested more than {MAX_DEPTH} deep"
_FIELDS = ("prompt", "input", "suffix")


class TooDeep(ValueError):
    """The texts are nested deeper than any format has them, and deeper than anybody looks."""


def body_of(body: bytes) -> dict[str, Any]:
    """The body as an object; {} when it is none, which somebody else refuses."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def asked_in(body: bytes) -> dict[str, Any]:
    """What the body says, parsed once for all who want to know. Raises Refused unless it is an object with a fit "model"."""
    try:
        value: Any = json.loads(body)
    except (ValueError, RecursionError) as error:
        message = f"the body is not JSON: {str(error)[:200]}"
        raise Refused("bad_json", error_answer(400, "invalid_request", "bad_json", message)) from None
    if not isinstance(value, dict):
        message = f"the body must be a JSON object, not {type(value).__name__}"
        raise Refused("bad_json", error_answer(400, "invalid_request", "bad_json", message))
    if not isinstance(value.get("model") or "", str):
        message = "model must be a string: the name of a service"
        raise Refused("bad_json", error_answer(400, "invalid_request", "bad_json", message, param="model"))
    return value


def map_texts(body: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """A copy of the body with `change` applied to every text a model would read. Raises TooDeep."""
    changed = dict(body)
    for field in _FIELDS:
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
    """Every text a model would read, in the order of `map_texts`. Raises TooDeep."""
    found: list[str] = []
    for field in _FIELDS:
        if field in body:
            _note(body[field], found)
    if isinstance(messages := body.get("messages"), list):
        for message in messages:
            if isinstance(message, dict) and "content" in message:
                _note(message["content"], found)
    return found


def holds_token_ids(body: dict[str, Any]) -> bool:
    """A prompt is given as numbers of tokens, which only the model's own tokenizer could read."""

    def numbers_in(value: Any) -> bool:
        return isinstance(value, int | float) or (isinstance(value, list) and any(map(numbers_in, value)))

    return numbers_in(body.get("prompt")) or numbers_in(body.get("input"))


def estimated_tokens(body: dict[str, Any], size: int) -> int:
    """Prompt and answer in tokens, before anybody has counted them; `size` is the body's in bytes."""
    try:
        chars = sum(map(len, texts_of(body)))
    except TooDeep:
        chars = size
    prompt = chars // CHARS_A_TOKEN + 1
    asked = body.get("max_completion_tokens", body.get("max_tokens"))
    is_number = isinstance(asked, int) and not isinstance(asked, bool) and 0 < asked < 1 << 24
    return prompt + (asked if is_number and isinstance(asked, int) else DEFAULT_COMPLETION_TOKENS)


def _note(value: Any, found: list[str], depth: int = 0) -> None:
    """What `_map` would change, without a copy: this is done for every request that has a limit."""
    if isinstance(value, str):
        found.append(value)
    elif depth > MAX_DEPTH:
        raise TooDeep(_TOO_DEEP)
    elif isinstance(value, list):
        for item in value:
            _note(item, found, depth + 1)
    elif isinstance(value, dict) and isinstance(value.get("text"), str):
        found.append(value["text"])


def _map(value: Any, change: Callable[[str], str], depth: int = 0) -> Any:
    if isinstance(value, str):
        return change(value)
    if depth > MAX_DEPTH:
        raise TooDeep(_TOO_DEEP)
    if isinstance(value, list):
        return [_map(item, change, depth + 1) for item in value]
    if isinstance(value, dict) and isinstance(value.get("text"), str):
        return {**value, "text": change(value["text"])}
    return value
