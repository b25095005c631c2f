"""What one worker knows of its routes beside their replicas: how full they are, what they spent, who answers for whom."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Container, Mapping
from typing import Any, NamedTuple

from adapters.access import SafetyPolicy
from adapters.ports import Backend, Route
from adapters.routing import PLAIN
from engine.gateway.pool import Pool
from engine.gateway.routing.budgets import RetryBudget, TokenBudget
from engine.gateway.routing.load import CLASSES, LoadDecision, decide_load
from engine.gateway.routing.models import (
    ServiceState,
    ask_of,
    choose_service,
    fallback_for,
    with_changes,
)
from engine.gateway.routing.tracks import session_cookie, session_key, track_of
from engine.gateway.table import RoutingTable
from state.words import Track

FALLBACK_REASONS = ("no_replica", "breaker_open", "over_budget", "load")
SERVICE_HEADER = "X-Airboss-Service"
FALLBACK_HEADER = "X-Airboss-Fallback"
Key = tuple[str, str]


class Asking(NamedTuple):
    """What a request brings to the choice of its place. `chance` is a point on [0, 100).

    A tuple, as `Place` is, for there are two of them a request and a frozen dataclass takes four times as long to make.
    """

    asked: Route
    headers: Mapping[str, str]
    cookies: Mapping[str, str]
    client_id: str
    request_class: str
    body: bytes
    chance: float
    is_tls: bool = False


class Place(NamedTuple):
    """Where a request goes, with what body, and what the answer will say of it. `is_shed`: nowhere, its class waits."""

    route: Route
    chosen: Backend
    body: bytes
    answer_headers: tuple[tuple[str, str], ...] = ()
    is_shed: bool = False


class Traffic:
    """Places requests. `max_inflight` is the worker's own limit, `clock` monotonic."""

    def __init__(self, pool: Pool, max_inflight: int, clock: Callable[[], float]) -> None:
        self.fallbacks: dict[tuple[str, str, str], int] = {}
        """(service, to, reason) → how often."""
        self.capped = 0
        """Requests whose max_tokens a load stage cut."""
        self._pool = pool
        self._max_inflight = max_inflight
        self._clock = clock
        self._inflight: dict[Key, int] = {}
        self._retries: dict[Key, RetryBudget] = {}
        self._tokens: dict[Key, TokenBudget] = {}

    def enter(self, route: Route) -> Key:
        """A request is on its way on the route; the key is for `leave`."""
        key = (route.service, route.env)
        self._inflight[key] = self._inflight.get(key, 0) + 1
        self.retry_budget(route).request()
        return key

    def leave(self, key: Key) -> None:
        """It has ended."""
        self._inflight[key] -= 1

    def inflight(self, route: Route) -> int:
        """Requests under way on the route, on this worker."""
        return self._inflight.get((route.service, route.env), 0)

    def retry_budget(self, route: Route) -> RetryBudget:
        """The route's retry budget; a new one when its rules changed."""
        key, rules = (route.service, route.env), (route.routing or PLAIN).retry
        budget = self._retries.get(key)
        if budget is not None and budget.rules is rules:
            return budget
        if budget is None or budget.rules != rules:
            budget = self._retries[key] = RetryBudget(rules, self._clock)
        budget.rules = rules  # equal, and of the newest table: the next look is at the object alone
        return budget

    @property
    def retries_refused(self) -> int:
        """Retries that budgets did not allow."""
        return sum(budget.refused for budget in self._retries.values())

    def spent(self, route: Route, tokens: int) -> None:
        """An answer on the route took so many tokens."""
        if route.routing is not None and route.routing.choose.budget_tokens:
            self._token_budget(route).spend(tokens)

    def state_of(self, route: Route) -> ServiceState:
        """How the route is: whether anything on it can answer, and how full it is."""
        limit = (route.routing or PLAIN).load.max_inflight or self._max_inflight
        return ServiceState(self._trouble(route), self.inflight(route) * 100 / limit)

    def place(self, table: RoutingTable, asking: Asking) -> Place:
        """Where the request goes now: the service, its track, and the body as that is asked."""
        route = asked = asking.asked
        if route.routing is None and asking.request_class == CLASSES[0]:
            chosen = track_of(route, asking.headers, asking.cookies, asking.client_id, asking.chance)
            return Place(route, chosen, asking.body)
        body: dict[str, Any] | None = None
        reason = ""
        if route.routing is not None and (route.routing.choose.rules or route.routing.choose.tiers):
            body = json.loads(asking.body)
            ask = ask_of(body, asking.headers, asking.request_class)
            route = choose_service(route, ask, self._finder(table, route.env), self.state_of)
        decision = self._load(route, asking.request_class)
        owner = _owner(route, asked)
        if owner is not None and (reason := self._trouble(route) or ("load" if decision.wants_fallback else "")):
            other = fallback_for(owner, self._finder(table, route.env, route.service), self.state_of)
            if other is not None:
                self._note(owner, other, reason)
                route, decision = other, self._load(other, asking.request_class)
            else:
                reason = ""
        said = _said(asked, route, reason)
        text = asking.body
        if route is not asked or decision.cap_max_tokens:
            self.capped += decision.cap_max_tokens > 0
            body = json.loads(asking.body) if body is None else body
            text = _changed(body, route.service if route is not asked else "", decision.cap_max_tokens)
        chosen, cookie = _track(route, asking)
        if cookie:
            said = (*said, ("Set-Cookie", cookie))
        return Place(route, chosen, text, said, is_shed=not decision.is_admitted)

    def fall_back(self, table: RoutingTable, route: Route, asking: Asking, tried: Container[str]) -> Place | None:
        """Where a request goes whose route had no answer for it after all; None when there is nowhere.

        Services that were `tried` are not asked again: the list may be that of the service asked first. Nor are those
        with checks of their own: the request has passed the checks of `route`, and no others will be made.
        """
        owner = _owner(route, asking.asked)
        if owner is None:
            return None
        find = self._finder(table, route.env)

        def untried(name: str) -> Route | None:
            found = None if name in tried else find(name)
            return found if found is not None and _checks(found) in (None, _checks(route)) else None

        other = fallback_for(owner, untried, self.state_of)
        if other is None:
            return None
        self._note(owner, other, "no_replica")
        chosen, _ = _track(other, asking)
        text = _changed(json.loads(asking.body), other.service, 0)
        return Place(other, chosen, text, _said(asking.asked, other, "no_replica"))

    def _load(self, route: Route, request_class: str) -> LoadDecision:
        return decide_load((route.routing or PLAIN).load, self._max_inflight, self.inflight(route), request_class)

    def _trouble(self, route: Route) -> str:
        able = [
            spawn_id
            for backend in route.backends
            if backend.track == Track.STABLE or (backend.weight and backend.track != Track.SHADOW)
            for spawn_id, _ in backend.replicas
            if spawn_id in self._pool.healthy
        ]
        if not able:
            return "no_replica"
        if all(self._pool.breakers.is_open(spawn_id) for spawn_id in able):
            return "breaker_open"
        return "over_budget" if self._token_budget(route).is_spent else ""

    def _token_budget(self, route: Route) -> TokenBudget:
        key, rules = (route.service, route.env), (route.routing or PLAIN).choose
        budget = self._tokens.get(key)
        if budget is None or (budget.limit, budget.window_s) != (rules.budget_tokens, rules.budget_window_s):
            budget = self._tokens[key] = TokenBudget(rules, self._clock)
        return budget

    def _note(self, route: Route, other: Route, reason: str) -> None:
        key = (route.service, other.service, reason)
        self.fallbacks[key] = self.fallbacks.get(key, 0) + 1

    @staticmethod
    def _finder(table: RoutingTable, env: str, but: str = "") -> Callable[[str], Route | None]:
        return lambda service: None if service == but else table.route(service, env)


def _checks(route: Route) -> SafetyPolicy | None:
    return route.access.safety if route.access is not None else None


def _owner(route: Route, asked: Route) -> Route | None:
    """Whose fallback counts: the chosen service's own, else that of the one asked; None when neither has one."""
    return next((r for r in (route, asked) if r.routing is not None and r.routing.choose.fallback), None)


def _track(route: Route, asking: Asking) -> tuple[Backend, str]:
    """The track, and the cookie that will lead there again when the route wants one and nothing else does."""
    sticky = (route.routing or PLAIN).sticky
    chosen = track_of(route, asking.headers, asking.cookies, asking.client_id, asking.chance)
    if not sticky.cookie or session_key(route, asking.headers, asking.cookies, ""):
        return chosen, ""
    key = secrets.token_urlsafe(12)
    cookie = session_cookie(sticky.cookie, key, sticky.ttl_s, asking.is_tls)
    by_key = {**asking.cookies, sticky.cookie: key}
    return track_of(route, asking.headers, by_key, asking.client_id, asking.chance), cookie


def _said(asked: Route, route: Route, reason: str) -> tuple[tuple[str, str], ...]:
    """What the answer says of a service that was not the one asked."""
    if route is asked:
        return ()
    service = (SERVICE_HEADER, route.service)
    return (service, (FALLBACK_HEADER, f"{asked.service}; reason={reason}")) if reason else (service,)


def _changed(body: dict[str, Any], model: str, cap_max_tokens: int) -> bytes:
    return json.dumps(with_changes(body, model, cap_max_tokens)).encode()
