"""What makes a route's `routing` one that must not be served. Pure; `table.py` asks it of every table."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from adapters.ports import Route
from adapters.routing import Breaker, Choose, LoadLimits, Routing, TrackRule
from engine.gateway.routing.load import CLASSES
from state.routing_config import find_loop
from state.words import Track

_SPLITS = ("random", "hash")
_POLICIES = ("", "quality_first", "cost_first")
_COOKIE = re.compile(r"[A-Za-z0-9_-]{0,64}")
_LIVE = (Track.STABLE, Track.CANARY, Track.BASELINE)


def routing_problems(routing: Routing) -> Iterator[str]:
    """Everything wrong with one route's routing."""
    for rule in routing.rules:
        yield from _rule_problems(rule)
    if routing.split.by not in _SPLITS:
        yield f"split.by is {routing.split.by!r}, not random or hash"
    if not _COOKIE.fullmatch(routing.sticky.cookie):
        yield f"sticky.cookie {routing.sticky.cookie!r} is not a cookie's name of letters, digits, - and _"
    if not 0 <= routing.mirror.share <= 100:
        yield f"mirror.share {routing.mirror.share} is not within 0 and 100"
    if routing.mirror.queue < 1 or routing.mirror.concurrency < 1 or routing.mirror.deadline_s <= 0:
        yield "mirror needs a queue and a concurrency of 1 or more, and a deadline"
    retry = routing.retry
    if not 0 <= retry.budget_pct <= 100 or retry.minimum < 0 or retry.window_s < 1 or retry.answer_timeout_s < 0:
        yield "retry: budget_pct is 0-100, minimum and answer_timeout_s at least 0, window_s at least 1"
    if routing.max_body_bytes < 0:
        yield "max_body_bytes is negative"
    yield from _breaker_problems(routing.breaker)
    yield from _load_problems(routing.load)
    yield from _choose_problems(routing.choose)


def loop_problems(routes: Sequence[Route]) -> Iterator[str]:
    """Services that would pass a request round in a circle, by environment."""
    for env in sorted({route.env for route in routes}):
        targets = {r.service: r.routing.choose.targets() for r in routes if r.env == env and r.routing is not None}
        if loop := find_loop(targets):
            yield f"in {env} routing leads in a circle: {' -> '.join(loop)}"


def _rule_problems(rule: TrackRule) -> Iterator[str]:
    if rule.track not in _LIVE:
        yield f"a rule leads to track {rule.track!r}; it may lead to stable, canary or baseline"
    if bool(rule.header) == bool(rule.cookie):
        yield "a rule names a header or a cookie"
    if sum(value is not None for value in (rule.equals, rule.matches, rule.present)) != 1:
        yield "a rule has exactly one of equals, matches, present"
    if rule.matches is not None:
        try:
            re.compile(rule.matches)
        except re.error as error:
            yield f"a rule's matches {rule.matches!r} is not a regular expression: {error}"


def _breaker_problems(breaker: Breaker) -> Iterator[str]:
    if (
        min(breaker.consecutive_5xx, breaker.consecutive_breaks, breaker.success_gap_pct) < 0
        or breaker.min_requests < 1
    ):
        yield "breaker: counts are at least 0, min_requests at least 1"
    if not 0 < breaker.ejection_s <= breaker.ejection_max_s or breaker.interval_s <= 0:
        yield "breaker: interval_s and ejection_s are above 0, ejection_max_s not below ejection_s"
    if not 0 <= breaker.max_ejected_pct <= 100:
        yield f"breaker.max_ejected_pct {breaker.max_ejected_pct} is not within 0 and 100"


def _load_problems(load: LoadLimits) -> Iterator[str]:
    if load.max_inflight < 0 or any(not 0 <= getattr(load, name) <= 100 for name in CLASSES):
        yield "load: max_inflight is at least 0, each class a percent"
    for stage in load.stages:
        acts = bool(stage.cap_max_tokens) + stage.fallback + bool(stage.shed)
        if not 1 <= stage.at <= 100 or acts != 1 or stage.cap_max_tokens < 0:
            yield "a load stage has `at` of 1-100 and exactly one of cap_max_tokens, fallback, shed"
        if stage.shed and stage.shed not in CLASSES:
            yield f"a load stage sheds {stage.shed!r}, which is no class of request"


def _choose_problems(choose: Choose) -> Iterator[str]:
    if choose.policy not in _POLICIES:
        yield f"choose.policy is {choose.policy!r}, not quality_first or cost_first"
    if choose.budget_tokens < 0 or choose.budget_window_s <= 0:
        yield "choose: budget_tokens is at least 0, budget_window_s above 0"
    for rule in choose.rules:
        if rule.prompt_chars is None and rule.max_tokens is None and not rule.header and not rule.request_class:
            yield f"a rule to {rule.to} has no condition"
