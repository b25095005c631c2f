"""The routing table: what is refused, and that the split is the one asked for."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.ports import Backend, Route
from engine.gateway.table import RoutingTable, affinity_point, backend_at, parse_table, pick, table_text
from state.words import UsageError


def route_of(canary: int, stable_replicas: int = 2, canary_replicas: int = 2) -> Route:
    return Route(
        service="chat",
        env="production",
        target="local",
        rollout_id="ro-1",
        backends=(
            Backend("stable", "chat-1", 100 - canary, tuple((f"s{n}", f"unix:/s{n}") for n in range(stable_replicas))),
            Backend("canary", "chat-2", canary, tuple((f"c{n}", f"unix:/c{n}") for n in range(canary_replicas))),
        ),
        slow_ms=300.0,
        deadline_s=10.0,
    )


def table_of(*routes: Route) -> RoutingTable:
    return RoutingTable(1, 0.0, "production", routes)


@given(st.integers(0, 100), st.integers(1, 2**40), st.floats(0, 2e9))
def test_a_table_survives_the_wire_and_the_file(canary: int, revision: int, issued_at: float) -> None:
    table = RoutingTable(revision, issued_at, "production", (route_of(canary),))
    assert parse_table(table_text(table)) == table


def test_a_newer_engines_unknown_fields_are_left_aside() -> None:
    body = table_of(route_of(5)).to_json() | {"mirror": {"x": 1}}
    assert parse_table(json.dumps(body)) == table_of(route_of(5))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: r["backends"][0].update(weight=96), "weights sum to 101"),
        (lambda r: r["backends"][0].update(weight=105) or r["backends"][1].update(weight=-5), "within 0 and 100"),
        (lambda r: r["backends"][0].update(weight=94.5), "weight"),
        (lambda r: r["backends"][0].update(weight="95"), "weight"),
        (lambda r: r["backends"][1].update(track="stable"), "a track appears twice"),
        (lambda r: r["backends"][0].update(track="old"), "unknown track old"),
        (lambda r: r["backends"][0].update(track="baseline"), "no stable track"),
        (lambda r: r["backends"][1].update(track="shadow"), "shadow must have weight 0"),
        (lambda r: r["backends"][0]["replicas"].append(["s9", "ftp://x"]), "ftp://x"),
        (lambda r: r["backends"][0]["replicas"].append(["s9", "http://x:99999"]), "x:99999' is not"),
        (lambda r: r["backends"][0]["replicas"].append(["s9", "http://a..b:80"]), "a..b:80' is not"),
        (lambda r: r["backends"][0]["replicas"].append(["s9", "http://[::1:80"]), "is not unix:/path or http"),
        (lambda r: r["backends"][0]["replicas"].append(["c0", "unix:/other"]), "c0 has two addresses"),
        (lambda r: r.update(env="v1"), "environment"),
        (lambda r: r.update(service="Chat Bot"), "service"),
        (lambda r: r.update(deadline_s=0), "deadline_s"),
        (lambda r: r.pop("slow_ms"), "slow_ms"),
    ],
)
def test_a_table_that_must_not_be_served_is_refused_with_the_reason(change: Any, says: str) -> None:
    body: Any = table_of(route_of(5)).to_json()
    change(body["routes"][0])
    with pytest.raises(UsageError, match=says):
        parse_table(json.dumps(body))


def test_two_routes_of_one_service_and_no_json_are_refused() -> None:
    with pytest.raises(UsageError, match="two routes"):
        parse_table(table_text(table_of(route_of(5), route_of(6))))
    with pytest.raises(UsageError, match="not a routing table"):
        parse_table(b"{")


@given(st.integers(0, 100), st.integers(0, 2**32))
@settings(max_examples=60)
def test_the_measured_split_lies_within_binomial_bounds(canary: int, seed: int) -> None:
    n, share, rng = 2000, canary / 100, random.Random(seed)
    got = sum(backend_at(route_of(canary), rng.random() * 100).track == "canary" for _ in range(n))
    assert abs(got - n * share) <= 5 * math.sqrt(n * share * (1 - share))


@given(st.integers(0, 100))
@settings(max_examples=30)
def test_the_split_by_session_lies_within_binomial_bounds_too(canary: int) -> None:
    n, share, route = 2000, canary / 100, route_of(canary)
    got = sum(backend_at(route, affinity_point(f"user-{k}", route)).track == "canary" for k in range(n))
    assert abs(got - n * share) <= 5 * math.sqrt(n * share * (1 - share))


@given(st.text(min_size=1, max_size=40), st.integers(0, 100), st.integers(0, 100))
def test_a_session_stays_where_it_is_and_a_growing_canary_never_sends_one_back(key: str, a: int, b: int) -> None:
    low, high = sorted((a, b))
    at_low = backend_at(route_of(low), affinity_point(key, route_of(low))).track
    at_high = backend_at(route_of(high), affinity_point(key, route_of(high))).track
    assert at_low == backend_at(route_of(low), affinity_point(key, route_of(low))).track
    assert at_low == "stable" or at_high == "canary"


REPLICAS = ("s0", "s1", "c0", "c1")


@given(
    st.integers(0, 100),
    st.floats(0, 100, exclude_max=True),
    st.sets(st.sampled_from(REPLICAS)),
    st.sets(st.sampled_from(REPLICAS)),
    st.fixed_dictionaries({name: st.integers(0, 9) for name in REPLICAS}),
    st.integers(0, 1000),
)
def test_a_pick_is_healthy_untried_least_busy_and_of_the_right_track(
    canary: int, point: float, healthy: set[str], tried: set[str], inflight: dict[str, int], turn: int
) -> None:
    route = route_of(canary)
    first = backend_at(route, point)
    choice = pick(route, first, healthy, inflight, turn, tried)
    able = {
        backend.track: [spawn_id for spawn_id, _ in backend.replicas if spawn_id in healthy - tried]
        for backend in route.backends
    }
    if choice is None:
        assert not able["stable"]
        assert canary == 0 or not able["canary"]
        return
    assert choice.spawn_id in able[choice.backend.track]
    assert inflight[choice.spawn_id] == min(inflight[s] for s in able[choice.backend.track])
    if able[first.track]:
        assert choice.backend is first
    elif first.track == "canary":
        assert choice.backend.track == "stable"
    if canary == 0:
        assert choice.backend.track == "stable"


def test_equally_busy_replicas_take_turns() -> None:
    route = route_of(0)
    picks = [pick(route, route.backends[0], set(REPLICAS), {}, turn) for turn in range(4)]
    assert [choice.spawn_id for choice in picks if choice] == ["s0", "s1", "s0", "s1"]


def test_a_rolled_back_release_is_no_refuge_though_stable_is_down() -> None:
    route = route_of(0)
    assert pick(route, route.backends[0], {"c0", "c1"}, {}, 0) is None


def test_warm_stable_takes_the_share_of_a_full_canary_that_died() -> None:
    route = route_of(100)
    choice = pick(route, backend_at(route, 42.0), {"s0"}, {}, 0)
    assert choice is not None
    assert choice.backend.track == "stable"
