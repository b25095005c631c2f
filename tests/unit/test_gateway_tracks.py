"""Which track a request meets, and what routing a table may carry: from airboss.toml to the choice."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from adapters.ports import Backend, Route
from adapters.routing import PLAIN, Routing, Split, Sticky, TrackRule
from engine.gateway.routing.tracks import needs_cookies, session_cookie, session_key, track_of
from engine.gateway.table import RoutingTable, backend_at, parse_table, table_text
from state.config import parse_config
from state.routing_config import RoutingConfig, find_loop
from state.words import ConfigError, UsageError

NO_HEADERS: CIMultiDict[str] = CIMultiDict()


def route_of(canary: int, routing: Routing | None = None, baseline: int = 0) -> Route:
    backends = (
        Backend("stable", "chat-1", 100 - canary - baseline, (("s0", "unix:/s0"),)),
        Backend("canary", "chat-2", canary, (("c0", "unix:/c0"),)),
        Backend("baseline", "chat-1", baseline, (("b0", "unix:/b0"),)),
        Backend("shadow", "chat-3", 0, (("h0", "unix:/h0"),)),
    )
    return Route("chat", "production", "local", "ro-1", backends, 300.0, 10.0, routing)


def put(routing: dict[str, Any]) -> RoutingTable:
    body: Any = RoutingTable(1, 0.0, "production", (route_of(5),)).to_json()
    body["routes"][0]["routing"] = routing
    return parse_table(json.dumps(body))


@pytest.mark.parametrize("weight", [1, 5, 25, 50, 90])
def test_the_measured_share_lies_within_one_percent_of_the_set_one_over_20000_requests(weight: int) -> None:
    rng, route = random.Random(weight), route_of(weight)
    got = sum(backend_at(route, rng.random() * 100).track == "canary" for _ in range(20_000))
    assert abs(got / 20_000 - weight / 100) <= 0.01


def test_a_hash_of_20000_users_splits_as_the_weights_say_and_each_user_stays() -> None:
    route = route_of(30, Routing(split=Split(by="hash", header="x-user")), baseline=10)
    met: dict[str, int] = {}
    for number in range(20_000):
        headers = CIMultiDict({"X-User": f"u{number}"})
        track = track_of(route, headers, {}, "", chance=number % 100).track
        assert number % 500 or track == track_of(route, headers, {}, "someone", chance=0.0).track
        met[track] = met.get(track, 0) + 1
    assert set(met) == {"stable", "canary", "baseline"}
    for track, share in (("stable", 0.6), ("canary", 0.3), ("baseline", 0.1)):
        assert abs(met[track] / 20_000 - share) <= 0.01


@given(st.text("abc0189-", min_size=1, max_size=20), st.integers(0, 100), st.integers(0, 100))
@settings(max_examples=60)
def test_a_sticky_session_only_ever_moves_from_stable_to_a_growing_canary(key: str, a: int, b: int) -> None:
    low, high = sorted((a, b))
    routing = Routing(sticky=Sticky("sid"))
    before = track_of(route_of(low, routing), NO_HEADERS, {"sid": key}, "", 99.0).track
    after = track_of(route_of(high, routing), NO_HEADERS, {"sid": key}, "", 1.0).track
    assert before == "stable" or after == "canary"


@pytest.mark.parametrize(
    ("rule", "headers", "cookies", "fits"),
    [
        (TrackRule("canary", header="x-beta", equals="1"), {"X-Beta": "1"}, {}, True),
        (TrackRule("canary", header="x-beta", equals="1"), {"X-Beta": "2"}, {}, False),
        (TrackRule("canary", header="x-beta", equals="1"), {}, {}, False),
        (TrackRule("canary", header="x-team", matches="eng-.*"), {"X-Team": "eng-7"}, {}, True),
        (TrackRule("canary", header="x-team", matches="eng"), {"X-Team": "eng-7"}, {}, False),
        (TrackRule("canary", header="x-team", matches=".*"), {"X-Team": "e" * 2000}, {}, False),
        (TrackRule("canary", cookie="beta", present=True), {}, {"beta": ""}, True),
        (TrackRule("canary", cookie="beta", present=False), {}, {}, True),
    ],
)
def test_a_rule_sends_the_requests_it_speaks_of_and_no_other(
    rule: TrackRule, headers: dict[str, str], cookies: dict[str, str], fits: bool
) -> None:
    route = route_of(1, Routing(rules=(rule,)))
    assert (track_of(route, CIMultiDict(headers), cookies, "", chance=50.0).track == "canary") == fits


def test_the_first_rule_that_fits_decides_and_a_track_of_weight_0_is_met_only_when_that_was_said() -> None:
    beta = TrackRule("canary", header="x-beta", present=True)
    rules = (TrackRule("baseline", header="x-base", present=True), beta)
    headers = CIMultiDict({"X-Beta": "1", "X-Base": "1"})
    assert track_of(route_of(5, Routing(rules=rules), baseline=5), headers, {}, "", 99.0).track == "baseline"
    assert track_of(route_of(5, Routing(rules=rules)), headers, {}, "", 99.0).track == "canary"
    assert track_of(route_of(0, Routing(rules=rules)), headers, {}, "", 99.0).track == "stable"
    at_zero = Routing(rules=(replace(beta, at_zero=True),))
    assert track_of(route_of(0, at_zero), headers, {}, "", 99.0).track == "canary"


def test_the_key_of_a_split_is_the_named_one_then_the_session_then_who_asks() -> None:
    hashed = route_of(5, Routing(split=Split(by="hash", header="x-user", cookie="uid"), sticky=Sticky("sid")))
    session = CIMultiDict({"X-Session-Id": "s1"})
    assert session_key(hashed, CIMultiDict({"x-user": "u"}), {"uid": "c", "sid": "k"}, "who") == "u"
    assert session_key(hashed, session, {"uid": "c", "sid": "k"}, "who") == "c"
    assert session_key(hashed, session, {"sid": "k"}, "who") == "s1"
    assert session_key(hashed, NO_HEADERS, {"sid": "k"}, "who") == "k"
    assert session_key(hashed, NO_HEADERS, {}, "who") == "who"
    assert session_key(route_of(5), NO_HEADERS, {"sid": "k"}, "who") == ""
    assert needs_cookies(hashed)
    assert not needs_cookies(route_of(5, Routing(split=Split(by="hash", header="x-user"))))


def test_a_session_cookie_cannot_be_read_by_scripts_and_is_secure_under_tls() -> None:
    assert session_cookie("sid", "k", 60.0, is_tls=True) == "sid=k; Max-Age=60; Path=/; HttpOnly; SameSite=Lax; Secure"
    assert "Secure" not in session_cookie("sid", "k", 60.0, is_tls=False)


FULL = """
[service.small]
[service.chat.routing]
rules = [{ header = "x-beta", equals = "1", track = "canary" }]
split = { by = "hash", cookie = "uid" }
sticky = { cookie = "sid", ttl = "1h" }
mirror = { share = 12.5, deadline = "5s" }
retry = { budget_pct = 10, window = "20s", answer_timeout = "2s" }
breaker = { consecutive_5xx = 7, ejection = "1s" }
load = { max_inflight = 32, batch = 50, stages = [{ at = 70, cap_max_tokens = 64 }, { at = 90, shed = "batch" }] }
max_body_bytes = 65536
[service.chat.routing.choose]
policy = "cost_first"
tiers = [{ service = "small", cost = 0.1 }]
rules = [{ to = "small", prompt_chars = 2000 }]
fallback = ["small"]
budget_tokens = 10000
"""


def test_what_airboss_toml_says_of_routing_is_what_the_gateway_reads() -> None:
    config = parse_config(FULL, Path("airboss.toml")).service["chat"].routing
    table = put(config.for_table(workers=4))
    routing = table.routes[0].routing
    assert routing is not None
    assert routing.choose.budget_tokens == 2500
    said = config.model_dump(by_alias=True)
    said["choose"]["budget_tokens"] = 2500
    assert json.loads(json.dumps(asdict(routing))) == json.loads(json.dumps(said))
    assert parse_table(table_text(table)) == table


def test_a_service_that_says_nothing_of_routing_is_plain_on_both_sides() -> None:
    assert RoutingConfig().for_table(workers=2) == {}
    said = RoutingConfig().model_dump(by_alias=True)
    assert json.loads(json.dumps(asdict(PLAIN))) == json.loads(json.dumps(said))


@pytest.mark.parametrize(
    ("routing", "says"),
    [
        ({"rules": [{"track": "shadow", "header": "x", "present": True}]}, "may lead to stable"),
        ({"rules": [{"track": "canary", "header": "x", "cookie": "y", "present": True}]}, "a header or a cookie"),
        ({"rules": [{"track": "canary", "header": "x"}]}, "exactly one of equals"),
        ({"rules": [{"track": "canary", "header": "x", "matches": "("}]}, "not a regular expression"),
        ({"split": {"by": "moon"}}, "not random or hash"),
        ({"sticky": {"cookie": "a b;"}}, "not a cookie's name"),
        ({"mirror": {"share": 101}}, "not within 0 and 100"),
        ({"mirror": {"queue": 0}}, "a queue"),
        ({"retry": {"window_s": 0}}, "window_s at least 1"),
        ({"breaker": {"ejection_s": 0}}, "ejection_s are above 0"),
        ({"breaker": {"max_ejected_pct": 150}}, "max_ejected_pct 150"),
        ({"load": {"batch": -1}}, "each class a percent"),
        ({"load": {"stages": [{"at": 50, "shed": "vip"}]}}, "no class of request"),
        ({"load": {"stages": [{"at": 50}]}}, "exactly one of cap_max_tokens"),
        ({"choose": {"policy": "luck"}}, "not quality_first"),
        ({"choose": {"rules": [{"to": "small"}]}}, "has no condition"),
        ({"choose": {"fallback": ["chat"]}}, "in a circle: chat -> chat"),
        ({"max_body_bytes": -1}, "negative"),
    ],
)
def test_routing_that_must_not_be_served_is_refused_with_the_reason(routing: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        put(routing)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[service.chat.routing.choose]\nfallback = ["nobody"]', r"no \[service.nobody\]"),
        (
            '[service.a.routing.choose]\nfallback = ["b"]\n[service.b.routing.choose]\nfallback = ["a"]',
            "in a circle: a -> b -> a",
        ),
        ("[service.chat.routing]\nrules = [{ header = 'x', track = 'canary' }]", "exactly one of equals"),
        ("[service.chat.routing]\nrules = [{ header = 'x', track = 'canary', matches = '(' }]", "regular expression"),
        ("[service.chat.routing.load]\nstages = [{ at = 50 }]", "exactly one of cap_max_tokens"),
        ("[service.chat.routing.choose]\npolicy = 'cost_first'", "policy and tiers belong together"),
        ("[service.chat.routing.split]\nby = 'moon'", "routing.split.by"),
        ("[service.chat.routing.breaker]\nejection = '10m'", "longer than ejection_max"),
    ],
)
def test_routing_in_airboss_toml_that_cannot_work_is_refused_with_the_reason(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_config(text, Path("airboss.toml"))


def test_two_ways_to_one_service_are_no_circle() -> None:
    assert find_loop({"a": ("b", "c"), "b": ("c",), "c": ()}) == ()
    assert find_loop({"a": ("b",), "b": ("c",), "c": ("b",)}) == ("b", "c", "b")
