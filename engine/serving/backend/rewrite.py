"""From our clients' bodies to the foreign server's, and for /generate back again. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from engine.serving.front.errors import ApiError, invalid

GENERATE = "/generate"
_GENERATE_FIELDS = {"prompt", "max_tokens", "temperature", "top_k", "model", "seed", "stop", "user"}
DEFAULT_GENERATE_TOKENS = 100
"""What /generate makes when nobody says: the torch server's answer too."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request as the foreign server gets it."""

    route: str
    body: bytes
    is_stream: bool
    is_generate: bool = False


def rewrite(
    route: str, content: bytes, served: frozenset[str], model_name: str, *, has_only_chat: bool = False
) -> Call:
    """The call that `content`, sent to `route`, means. Raises ApiError when it cannot be meant.

    Only the model's name is looked at; all else is the foreign server's to judge. With `has_only_chat`, /generate goes to
    /v1/chat/completions, its prompt as the user's only turn.
    """
    try:
        value = json.loads(content)
    except ValueError as error:
        raise invalid(f"the body is not JSON: {error}", code="invalid_json") from error
    except RecursionError as error:
        raise invalid("the body's JSON is nested too deeply", code="invalid_json") from error
    if not isinstance(value, dict):
        raise invalid("the body must be a JSON object", code="invalid_json")
    model = value.get("model")
    if model is not None and not isinstance(model, str):
        raise invalid("model must be a string: the name of a service", "model")
    if model is not None and model not in served and model != model_name:
        raise ApiError(
            404,
            f"there is no model {str(model)[:100]!r} here; this replica serves {', '.join(sorted(served))}",
            kind="invalid_request_error",
            code="model_not_found",
            param="model",
            rejection="invalid",
        )
    if route == GENERATE:
        body = _generate(value, model_name)
        if has_only_chat:
            body["messages"] = [{"role": "user", "content": body.pop("prompt")}]
        to = "/v1/chat/completions" if has_only_chat else "/v1/completions"
        return Call(to, json.dumps(body).encode(), False, True)
    try:
        passed = json.dumps({**value, "model": model_name}, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise invalid("the body has half of a surrogate pair, which is no text", code="invalid_json") from error
    return Call(route, passed, value.get("stream") is True)


def _generate(value: dict[str, Any], model_name: str) -> dict[str, Any]:
    odd = sorted(set(value) - _GENERATE_FIELDS)
    if odd:
        raise invalid(
            f"/generate of a foreign backend does not take {', '.join(odd)}; /v1/completions passes everything on",
            odd[0],
        )
    if not isinstance(value.get("prompt"), str):
        raise invalid("prompt must be a text", "prompt")
    asked = {name: given for name, given in value.items() if name not in ("model", "max_tokens")}
    return {**asked, "model": model_name, "max_tokens": value.get("max_tokens", DEFAULT_GENERATE_TOKENS)}


def generated(content: bytes) -> bytes:
    """The body of /generate's answer. Raises ApiError when the foreign answer is not a completion."""
    try:
        value = json.loads(content)
        choice = value["choices"][0]
        text = str(choice["text"] if "text" in choice else choice["message"]["content"])
        # A server that does not count is not made to have counted none: one answer is at least a token.
        count = int((value.get("usage") or {}).get("completion_tokens") or bool(text))
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ApiError(
            502, "the backend's answer is no completion", kind="server_error", code="backend_answer"
        ) from error
    return json.dumps({"text": text, "tokens_generated": count}, ensure_ascii=False).encode()
