"""Which track a request meets: rules, then the session's place, then chance. Values in, values out."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie

from adapters.ports import Backend, Route
from adapters.routing import PLAIN, Split, TrackRule
from engine.gateway.table import affinity_point, backend_at

AFFINITY_HEADERS = ("X-Session-Id", "X-Affinity-Key")
MAX_VALUE = 1024
"""Characters of a header or cookie that a regular expression is shown; a longer one matches none."""


def track_of(
    route: Route, headers: Mapping[str, str], cookies: Mapping[str, str], client_id: str, chance: float
) -> Backend:
    """The backend this request is meant for. `chance` is a point on [0, 100) for requests with no key."""
    routing = route.routing or PLAIN
    for rule in routing.rules:
        backend = next((b for b in route.backends if b.track == rule.track), None)
        if backend is not None and (backend.weight or rule.at_zero) and fits(rule, headers, cookies):
            return backend
    key = session_key(route, headers, cookies, client_id)
    return backend_at(route, affinity_point(key, route) if key else chance)


def session_key(route: Route, headers: Mapping[str, str], cookies: Mapping[str, str], client_id: str) -> str:
    """What always leads to the same place on the scale; "" where chance decides.

    The key that a hash split names, else an affinity header, else the sticky cookie, else, with a hash split, who asks.
    The cookie holds a key and not a track: a growing canary takes its share of sessions, and none is sent back.
    """
    routing = route.routing or PLAIN
    split, sticky = routing.split, routing.sticky
    if split.by == "hash" and (key := _named(split, headers, cookies)):
        return key
    for name in AFFINITY_HEADERS:
        if key := headers.get(name, ""):
            return key
    if sticky.cookie and (key := cookies.get(sticky.cookie, "")):
        return key
    return client_id if split.by == "hash" else ""


def needs_cookies(route: Route) -> bool:
    """Whether anything about this route is decided by a cookie; parsing them for nothing would cost every request."""
    routing = route.routing
    if routing is None:
        return False
    return bool(routing.sticky.cookie or routing.split.cookie or any(rule.cookie for rule in routing.rules))


def cookies_of(header: str) -> dict[str, str]:
    """The cookies of a Cookie header; none of one that is malformed, as no browser sends such."""
    jar: SimpleCookie = SimpleCookie()
    try:
        jar.load(header)
    except CookieError:
        return {}
    return {name: morsel.value for name, morsel in jar.items()}


def session_cookie(name: str, value: str, ttl_s: float, is_tls: bool) -> str:
    """A Set-Cookie value that keeps a session's key."""
    secure = "; Secure" if is_tls else ""
    return f"{name}={value}; Max-Age={int(ttl_s)}; Path=/; HttpOnly; SameSite=Lax{secure}"


def fits(rule: TrackRule, headers: Mapping[str, str], cookies: Mapping[str, str]) -> bool:
    """Whether the request is one that `rule` speaks of."""
    value = headers.get(rule.header) if rule.header else cookies.get(rule.cookie)
    if rule.present is not None:
        return (value is not None) == rule.present
    if value is None:
        return False
    if rule.equals is not None:
        return value == rule.equals
    return len(value) <= MAX_VALUE and _pattern(rule.matches or "").fullmatch(value) is not None


def _named(split: Split, headers: Mapping[str, str], cookies: Mapping[str, str]) -> str:
    return (split.header and headers.get(split.header, "")) or (split.cookie and cookies.get(split.cookie, "")) or ""


@functools.lru_cache(maxsize=256)
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text)
