"""The front desk: every check between a request's arrival and its way to a replica, in one place and one order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiohttp import web

from adapters.access import AccessPolicy, CachePolicy, SafetyPolicy
from adapters.ports import Route
from engine.gateway.access.admission import Admission
from engine.gateway.access.auth import CREDENTIAL_HEADERS, Authenticator, forbidden
from engine.gateway.access.cache import HEADER, AnswerCache, Keeping, key_of, wants_stream
from engine.gateway.access.identity import Identity
from engine.gateway.access.passage import Passage
from engine.gateway.access.prompt import TooDeep, body_of, estimated_tokens, holds_token_ids, map_texts, texts_of
from engine.gateway.access.quota import Quota
from engine.gateway.access.refusal import refusal
from engine.gateway.access.replay import replay
from engine.gateway.access.safety.answer import encoded
from engine.gateway.access.safety.hooks import Hooks
from engine.gateway.access.safety.review import Blocked, CheckCounts, Review
from engine.gateway.answers import header_line, without
from engine.gateway.exchange import Exchange
from engine.gateway.routing.load import CLASS_HEADER, CLASSES
from state.access_config import AccessConfig
from state.words import BadClass

TENANT_HEADER = "X-Airboss-Tenant"
READABLE_PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/generate")
"""Whose requests and answers the checks can read."""
_CREDENTIALS = frozenset(name.lower().encode() for name in CREDENTIAL_HEADERS)


class Desk:
    """Who may ask, how much, and what. Costs nothing for what is not configured."""

    def __init__(self, config: AccessConfig, gateway_dir: Path) -> None:
        """Reads keys. Raises UsageError when they cannot be used: a gateway that cannot check lets nobody in."""
        self.config = config
        self.authenticator = Authenticator(config, gateway_dir)
        self.quota = Quota(config.rate, config.workers)
        self.cache = AnswerCache(config.cache)
        self.checks = CheckCounts()
        self._hooks = Hooks()

    def identify(self, headers: Mapping[str, str]) -> Identity | None:
        """Who asks; None when nobody is asked. Raises Refused (401)."""
        is_wanted = self.authenticator.is_on or self.quota.is_on  # the prober is exempt from limits
        return self.authenticator.identify(headers) if is_wanted else None

    def admit(
        self, identity: Identity | None, route: Route, peer: str, body: dict[str, Any], size: int
    ) -> Admission | None:
        """Let a routed request in. None when nothing is known or wanted of it. Raises Refused (403, 429).

        `body` is what it says, parsed, and `size` how many bytes that was.
        """
        if identity is not None and not identity.may_use(route.service):
            raise forbidden(identity, route.service)
        limits = self.quota.limits_of(identity, peer) if self.quota.is_on or identity is not None else ()
        if limits:
            ticket = self.quota.admit(limits, lambda: estimated_tokens(body, size))
            return Admission(identity, self.quota, self.cache, ticket, self.quota.headers(ticket))
        return Admission(identity, self.quota, self.cache) if identity is not None else None

    def upstream(self, identity: Identity | None, request_class: str) -> tuple[frozenset[bytes], bytes]:
        """(headers that stay here, header lines that are added): who asks and how urgently, never the credential."""
        word = request_class if request_class != CLASSES[0] else identity.request_class if identity is not None else ""
        urgency = header_line(CLASS_HEADER, word) if word else b""
        if identity is None:
            return frozenset(), urgency
        tenant = header_line(TENANT_HEADER, identity.tenant) if identity.tenant else b""
        return _CREDENTIALS, tenant + urgency

    async def before(
        self, request: web.BaseRequest, exchange: Exchange, policy: AccessPolicy, close: bool
    ) -> web.StreamResponse | None:
        """Check an admitted request's prompt, and answer it from the cache; None when a replica must.

        The answer's own way through is prepared here and walked in `passing.py`.
        """
        call = exchange.call
        admission = call.admission or Admission(None, self.quota, self.cache)
        exchange.call = call = replace(call, admission=admission)
        if policy.safety is not None:
            admission.review = self._review(exchange, admission, policy.safety)
            try:
                _refuse_unreadable(call.path)
                body = await _reviewed_body(admission.review, call.body)
            except Blocked as blocked:
                exchange.outcome, exchange.code = BadClass.CLIENT_ERROR, 400
                return refusal(blocked, exchange)
            if body is not call.body:
                exchange.call = call = replace(call, body=body)
        keeping = None
        if policy.cache is not None and not call.is_probe:
            keeping = self._keeping(request, exchange, admission, policy.cache)
            kept = self.cache.get(keeping.key) if keeping is not None else None
            if keeping is not None and kept is None and not wants_stream(call.body):
                kept = await self.cache.answer_under_way(keeping, exchange.remaining_ms() / 1000)
            result = "bypass" if keeping is None else "miss" if kept is None else "hit"
            self.cache.count(call.route, result)
            admission.answer_headers[HEADER] = result
            if kept is not None:
                exchange.outcome, exchange.code = BadClass.CACHED, 200
                exchange.first_byte()
                return await replay(request, kept, exchange.own_headers(), close)
        admission.passage = Passage(admission.review, keeping)
        # What is packed can be neither read nor given to others.
        exchange.call = replace(call, lines=without(call.lines, b"accept-encoding"))
        return None

    async def close(self) -> None:
        """Close connections to hooks."""
        await self._hooks.close()

    def _review(self, exchange: Exchange, admission: Admission, policy: SafetyPolicy) -> Review:
        route, backend = exchange.call.route, exchange.backend
        return Review(
            policy,
            self._hooks,
            self.checks,
            route.service,
            route.env,
            backend.release_id,
            backend.track,
            admission.tenant,
        )

    def _keeping(
        self, request: web.BaseRequest, exchange: Exchange, admission: Admission, policy: CachePolicy
    ) -> Keeping | None:
        call = exchange.call
        headers = request.headers
        passed = [headers.get(name, "") for name in CREDENTIAL_HEADERS] if admission.identity is None else []
        key = key_of(call.route, exchange.backend, policy, call.path, call.body, admission.scope, headers, passed)
        return Keeping(key, policy, exchange.backend) if key is not None else None


def _refuse_unreadable(path: str) -> None:
    """Raise Blocked where texts stand in places that nobody here knows: a check that reads nothing is none."""
    if path.partition("?")[0] not in READABLE_PATHS:
        said = f"{path[:100]} has a format that cannot be checked; use {', '.join(READABLE_PATHS)}"
        raise Blocked("format", "prompt", said)


async def _reviewed_body(review: Review, body: bytes) -> bytes:
    """The body with its texts as they may be passed on; the very same when nothing changed. Raises Blocked."""
    value = body_of(body)
    try:
        before = texts_of(value)
    except TooDeep as error:
        raise Blocked("format", "prompt", str(error)) from None
    if review.rules("prompt") and holds_token_ids(value):
        raise Blocked("format", "prompt", "it is made of token numbers, which cannot be checked; send text")
    after = await review.texts("prompt", before) if review.rules("prompt") else before
    if after == before:
        return body
    texts = iter(after)
    return encoded(map_texts(value, lambda _text: next(texts)))
