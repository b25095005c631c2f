"""What a caller reads when a check refused its prompt, or the answer to it."""

from __future__ import annotations

from aiohttp import web

from engine.gateway.access.safety.review import Blocked
from engine.gateway.answers import error_answer
from engine.gateway.exchange import Exchange


def refusal(blocked: Blocked, exchange: Exchange) -> web.Response:
    """The answer in the place of one that a check refused."""
    headers = exchange.own_headers()
    return error_answer(400, "invalid_request_error", "content_policy_violation", str(blocked), headers=headers)
