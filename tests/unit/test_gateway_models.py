"""Which service answers, what a full route does, how long a client waits: the pure decisions."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.ports import Backend, Route
from adapters.routing import Choose, LoadLimits, ModelRule, Routing, Stage, Tier
from engine.gateway.routing.limits import deadline_of
from engine.gateway.routing.load import CLASSES, class_of, decide_load
from engine.gateway.routing.models import (
    ServiceState,
    ask_of,
    choose_service,
    fallback_for,
    tokens_wanted,
    with_changes,
)


def route_of(service: str, choose: Choose | None = None) -> Route:
    backends = (Backend("stable", f"{service}-1", 100, ((service, f"unix:/{service}"),)),)
    return Route(
        service,
        "production",
        "local",
        "",
        backends,
        300.0,
        10.0,
        Routing(choose=choose) if choose is not None else None,
    )


ROUTES = {name: route_of(name) for name in ("small", "large")}
TIERS = (Tier("large", quality=9, cost=2.0), Tier("small", quality=3, cost=0.2))


def answers(choose: Choose, states: dict[str, tuple[str, float]], **body: Any) -> str:
    """The service that answers a request with this body and class."""
    request_class, headers = body.pop("request_class", "interactive"), body.pop("headers", {})

    def state_of(route: Route) -> ServiceState:
        return ServiceState(*states.get(route.service, ("", 0.0)))

    ask = ask_of(body, headers, request_class)
    return choose_service(route_of("chat", choose), ask, ROUTES.get, state_of).service


@pytest.mark.parametrize(
    ("policy", "states", "service"),
    [
        ("quality_first", {}, "large"),
        ("cost_first", {}, "small"),
        ("quality_first", {"large": ("", 85.0)}, "small"),
        ("quality_first", {"large": ("", 85.0), "small": ("", 95.0)}, "large"),
        ("quality_first", {"large": ("no_replica", 0.0), "small": ("", 95.0)}, "small"),
        ("cost_first", {"small": ("breaker_open", 0.0)}, "large"),
        ("cost_first", {"small": ("no_replica", 0.0), "large": ("no_replica", 0.0)}, "chat"),
    ],
)
def test_a_policy_takes_the_best_tier_that_has_room_and_the_best_that_answers_when_none_has(
    policy: str, states: dict[str, tuple[str, float]], service: str
) -> None:
    assert answers(Choose(policy=policy, tiers=TIERS), states) == service


def test_rules_come_before_the_policy_and_every_condition_must_hold() -> None:
    rules = (
        ModelRule("large", prompt_chars=1000),
        ModelRule("small", request_class="batch", max_tokens=50),
        ModelRule("large", header="x-tier", equals="gold"),
        ModelRule("absent", prompt_chars=0),
    )
    choose = Choose(rules=rules)
    assert answers(choose, {}, prompt="x" * 1000) == "large"
    assert (
        answers(choose, {}, messages=[{"role": "user", "content": [{"type": "text", "text": "x" * 1000}]}]) == "large"
    )
    assert answers(choose, {}, prompt="x", max_tokens=50, request_class="batch") == "small"
    assert answers(choose, {}, prompt="x", max_tokens=50) == "chat"
    assert answers(choose, {}, prompt="x", headers={"x-tier": "gold"}) == "large"
    assert answers(choose, {}, prompt="x", headers={"x-tier": "tin"}) == "chat"


def test_the_first_fallback_that_can_answer_does() -> None:
    route = route_of("chat", Choose(fallback=("absent", "large", "small")))
    troubles = {"large": "no_replica"}

    def found() -> Route | None:
        return fallback_for(route, ROUTES.get, lambda r: ServiceState(troubles.get(r.service, ""), 0.0))

    assert found() is ROUTES["small"]
    troubles["small"] = "over_budget"
    assert found() is None
    assert fallback_for(route_of("chat"), ROUTES.get, lambda r: ServiceState("", 0.0)) is None


def test_a_body_is_changed_only_where_that_is_meant() -> None:
    body = {"model": "chat", "prompt": "x", "max_tokens": 500, "seed": 7}
    assert with_changes(body, "small", 64) == {"model": "small", "prompt": "x", "max_tokens": 64, "seed": 7}
    assert with_changes(body, "", 900)["max_tokens"] == 500
    assert with_changes({"prompt": "x"}, "small", 64) == {"prompt": "x", "max_tokens": 64}
    assert with_changes({"max_completion_tokens": 9, "messages": []}, "", 4)["max_completion_tokens"] == 4
    assert tokens_wanted({"max_tokens": True}) == 0
    assert body["max_tokens"] == 500


@given(st.sampled_from(CLASSES), st.sampled_from((*CLASSES, "", "vip")))
def test_a_request_may_lower_its_class_and_never_raise_it(granted: str, asked: str) -> None:
    got = class_of(asked, granted)
    assert CLASSES.index(got) >= CLASSES.index(granted)
    assert got in (asked, granted)


@given(st.integers(1, 200), st.integers(0, 400))
def test_a_lower_class_is_turned_away_no_later_than_a_higher_one(max_inflight: int, inflight: int) -> None:
    limits = LoadLimits(max_inflight=max_inflight, batch=80, background=50)
    admitted = [decide_load(limits, 256, inflight, name).is_admitted for name in CLASSES]
    assert admitted == sorted(admitted, reverse=True)
    assert admitted[0] == (inflight < max_inflight)
    assert decide_load(LoadLimits(), 256, inflight, "interactive").is_admitted  # the worker's own limit sees to it


def test_stages_cut_answers_then_turn_to_the_fallback_then_shed() -> None:
    stages = (
        Stage(50, cap_max_tokens=128),
        Stage(70, cap_max_tokens=32),
        Stage(80, fallback=True),
        Stage(90, shed="batch"),
    )
    limits = LoadLimits(max_inflight=10, batch=100, stages=stages)

    def at(inflight: int, request_class: str = "batch") -> tuple[bool, int, bool]:
        got = decide_load(limits, 256, inflight, request_class)
        return got.is_admitted, got.cap_max_tokens, got.wants_fallback

    assert at(4) == (True, 0, False)
    assert at(5) == (True, 128, False)
    assert at(7) == (True, 32, False)
    assert at(8) == (True, 32, True)
    assert at(9) == (False, 0, False)
    assert at(9, "interactive") == (True, 32, True)
    assert at(10, "interactive") == (False, 0, False)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 30.0),
        ({"x-request-timeout-ms": "1500"}, 1.5),
        ({"timeout": "2.5"}, 2.5),
        ({"x-request-timeout-ms": "100", "timeout": "9"}, 0.1),
        ({"timeout": "600"}, 30.0),
    ],
)
def test_a_client_may_wait_shorter_than_the_route_and_not_longer(headers: dict[str, str], seconds: float) -> None:
    assert deadline_of(headers, 30.0) == seconds


@pytest.mark.parametrize("value", ["", "soon", "-1", "0", "nan", "inf"])
def test_a_timeout_that_is_no_duration_is_refused_with_what_is_allowed(value: str) -> None:
    with pytest.raises(ValueError, match="must be a number of seconds above 0"):
        deadline_of({"timeout": value}, 30.0)
