"""What one worker makes of its routes: the place of a request, given who is healthy and what was spent; and the router."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from multidict import CIMultiDict

from adapters.access import AccessPolicy, SafetyPolicy, SafetyRule
from adapters.local.router import LocalRouter
from adapters.ports import Backend, Route
from adapters.routing import Choose, LoadLimits, ModelRule, Retry, Routing, Stage, Sticky
from engine.gateway.pool import Pool
from engine.gateway.routing.circuit import Fault
from engine.gateway.routing.traffic import Asking, Traffic
from engine.gateway.table import RoutingTable, parse_table
from state.config import parse_config
from state.store import Store


def route_of(service: str, routing: Routing | None = None) -> Route:
    backends = (Backend("stable", f"{service}-1", 100, ((service, f"unix:/{service}"),)),)
    return Route(service, "production", "local", "", backends, 300.0, 10.0, routing)


class World:
    """Routes, and which of their replicas are healthy, under a clock that stands still."""

    def __init__(self, *routes: Route, healthy: Sequence[str] = ("chat", "small")) -> None:
        self.now = 0.0
        self.table = RoutingTable(1, 0.0, "production", routes)
        self.pool = Pool(clock=lambda: self.now)
        self.pool.arrange(routes)
        self.pool.healthy.update(healthy)
        self.traffic = Traffic(self.pool, max_inflight=10, clock=lambda: self.now)

    def ask(self, request_class: str = "interactive", cookies: Mapping[str, str] | None = None, **body: Any) -> Any:
        text = json.dumps({"model": "chat", "prompt": "x", **body}).encode()
        asking = Asking(self.table.routes[0], CIMultiDict(), cookies or {}, "who", request_class, text, 50.0)
        return self.traffic.place(self.table, asking)


FALLBACK = Choose(fallback=("small",))


def test_a_stage_turns_to_the_fallback_as_the_route_fills_and_back_as_it_empties() -> None:
    chat = route_of("chat", Routing(choose=FALLBACK, load=LoadLimits(stages=(Stage(50, fallback=True),))))
    world = World(chat, route_of("small"))
    entered = [world.traffic.enter(chat) for _ in range(5)]
    place = world.ask()
    assert place.route.service == "small"
    assert dict(place.answer_headers) == {"X-Airboss-Service": "small", "X-Airboss-Fallback": "chat; reason=load"}
    assert json.loads(place.body)["model"] == "small"
    world.traffic.leave(entered[0])
    assert world.ask().route.service == "chat"


def test_a_fallback_that_is_down_itself_is_none_and_the_request_stays_where_it_was_meant_to_go() -> None:
    world = World(route_of("chat", Routing(choose=FALLBACK)), route_of("small"), healthy=())
    place = world.ask()
    assert place.route.service == "chat"
    assert place.answer_headers == ()
    assert world.traffic.fallbacks == {}


def test_every_healthy_replicas_circuit_must_be_open_before_a_service_falls_back() -> None:
    world = World(route_of("chat", Routing(choose=FALLBACK)), route_of("small"))
    for _ in range(5):
        assert world.ask().route.service == "chat"
        world.pool.breakers.failed("chat", Fault.SERVER_ERROR)
    assert world.ask().route.service == "small"
    world.now += 5.0
    assert world.ask().route.service == "chat"


def test_a_class_whose_share_is_used_up_is_shed_and_a_higher_one_is_not() -> None:
    load = LoadLimits(batch=0)
    alone = World(route_of("chat", Routing(load=load)))
    assert alone.ask("batch").is_shed
    assert not alone.ask("interactive").is_shed


def test_the_asked_services_fallback_counts_for_one_that_was_chosen_and_has_none() -> None:
    choose = Choose(rules=(ModelRule("large", prompt_chars=1),), fallback=("large", "small"))
    world = World(route_of("chat", Routing(choose=choose)), route_of("large"), route_of("small"))
    place = world.ask()
    assert (place.route.service, dict(place.answer_headers)["X-Airboss-Fallback"]) == (
        "small",
        "chat; reason=no_replica",
    )
    assert world.traffic.fallbacks == {("chat", "small", "no_replica"): 1}
    world.pool.healthy.add("large")
    assert world.ask().route.service == "large"


def test_no_service_is_fallen_back_to_twice_by_one_request() -> None:
    chat = route_of("chat", Routing(choose=FALLBACK))
    world = World(chat, route_of("small"))
    asking = Asking(chat, CIMultiDict(), {}, "who", "interactive", b"{}", 50.0)
    first = world.traffic.fall_back(world.table, chat, asking, {"chat"})
    assert first is not None
    assert world.traffic.fall_back(world.table, first.route, asking, {"chat", "small"}) is None


def test_a_request_under_way_falls_back_to_no_service_whose_checks_it_has_not_passed() -> None:
    checks = AccessPolicy(safety=SafetyPolicy((SafetyRule("pii", "pii", "both", "block"),)))
    chat = route_of("chat", Routing(choose=FALLBACK))
    asking = Asking(chat, CIMultiDict(), {}, "who", "interactive", b"{}", 50.0)
    world = World(chat, replace(route_of("small"), access=checks))
    assert world.traffic.fall_back(world.table, chat, asking, {"chat"}) is None
    checked = replace(chat, access=checks)
    for small in (route_of("small"), replace(route_of("small"), access=checks)):
        world = World(checked, small)
        place = world.traffic.fall_back(world.table, checked, asking._replace(asked=checked), {"chat"})
        assert place is not None and place.route.service == "small"


def test_a_body_passes_untouched_unless_something_in_it_changes() -> None:
    chat = route_of("chat", Routing(load=LoadLimits(stages=(Stage(10, cap_max_tokens=8),))))
    world = World(chat)
    place = world.ask(max_tokens=100)
    assert place.body == b'{"model": "chat", "prompt": "x", "max_tokens": 100}'
    world.traffic.enter(chat)
    assert json.loads(world.ask(max_tokens=100).body)["max_tokens"] == 8
    assert world.traffic.capped == 1


def test_a_session_gets_a_cookie_once_and_every_session_another() -> None:
    world = World(route_of("chat", Routing(sticky=Sticky("sid"))))
    first, second = (dict(world.ask().answer_headers)["Set-Cookie"] for _ in range(2))
    assert first != second
    assert world.ask(cookies={"sid": "known"}).answer_headers == ()


def test_what_retries_took_stays_taken_over_a_weight_change_and_new_rules_begin_anew() -> None:
    def traffic_route(minimum: int) -> Route:
        return route_of("chat", Routing(retry=Retry(minimum=minimum)))

    world = World(traffic_route(1))
    assert world.traffic.retry_budget(traffic_route(1)).take()
    assert not world.traffic.retry_budget(traffic_route(1)).take()
    assert world.traffic.retry_budget(traffic_route(2)).take()


def test_a_replica_left_out_comes_back_at_once_when_a_new_table_leaves_it_alone() -> None:
    pair = Backend("stable", "chat-1", 100, (("a", "unix:/a"), ("b", "unix:/b")))
    pool = Pool(clock=lambda: 0.0)
    pool.arrange([Route("chat", "production", "local", "", (pair,), 300.0, 10.0)])
    for _ in range(5):
        pool.breakers.failed("a", Fault.SERVER_ERROR)
    assert pool.breakers.out("a", {"a", "b"}) == {"a"}
    alone = Backend("stable", "chat-1", 100, (("a", "unix:/a"),))
    pool.arrange([Route("chat", "production", "local", "", (alone,), 300.0, 10.0)])
    assert pool.breakers.out("a", {"a"}) == frozenset()


class Published:
    """A gateway, as far as the router speaks to one."""

    def __init__(self) -> None:
        self.tables: list[Mapping[str, Any]] = []

    async def put(self, table: Mapping[str, Any]) -> None:
        self.tables.append(table)


class NoReplicas:
    """A runtime where nothing runs."""

    def replicas(self, service: str, env: str) -> Sequence[Any]:
        return ()


@pytest.mark.parametrize("track", ["canary", "shadow", "baseline"])
async def test_the_router_publishes_every_track_and_what_airboss_toml_says_of_routing(
    tmp_path: Path, track: str
) -> None:
    source = """
    [service.chat.routing]
    mirror = { share = 10 }
    [environment.production]
    [gateway]
    workers = 2
    """
    store = Store.open(tmp_path / "state.db")
    try:
        gateway = Published()
        config = parse_config(source, tmp_path / "airboss.toml")
        router = LocalRouter(store, gateway, NoReplicas(), config)  # type: ignore[arg-type]
        weight = 0 if track == "shadow" else 10
        backends = (Backend("stable", "chat-1", 100 - weight, ()), Backend(track, "chat-2", weight, ()))
        await router.apply(Route("chat", "production", "local", "ro-1", backends, 0.0, 0.0))
    finally:
        store.close()
    (route,) = parse_table(json.dumps(gateway.tables[-1])).routes
    assert {b.track: (b.release_id, b.weight) for b in route.backends} == {
        "stable": ("chat-1", 100 - weight),
        track: ("chat-2", weight),
    }
    assert route.routing is not None
    assert route.routing.mirror.share == 10.0
