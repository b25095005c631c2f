"""What a route does beyond weights, as a client and the replicas see it: a real worker, real sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from gateway_deck import Behave, Deck, Load, Raw, babbles, hangs, says, streams, until

Replicas = Callable[..., Awaitable[list[Raw]]]


@pytest.fixture
async def replicas(deck: Deck) -> AsyncIterator[Replicas]:
    """Start replicas that behave as told: `await replicas(s1=says("a"), c1=hangs)`."""
    async with AsyncExitStack() as stack:

        async def start(**behaviours: Behave) -> list[Raw]:
            started = [Raw(deck.sock(name), behave) for name, behave in behaviours.items()]
            for raw in started:
                await raw.start()
                stack.push_async_callback(raw.close)
            return started

        yield start


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as opened:
        yield opened


def backend(deck: Deck, track: str, weight: int, *names: str) -> dict[str, Any]:
    replicas = [[name, f"unix:{deck.sock(name)}"] for name in names]
    return {"track": track, "release_id": f"{track}-1", "weight": weight, "replicas": replicas}


def route(deck: Deck, *backends: dict[str, Any], service: str = "chat", **over: Any) -> dict[str, Any]:
    return {
        "service": service, "env": "production", "target": "local", "rollout_id": "ro-1", "slow_ms": 300.0,
        "deadline_s": 10.0, "backends": list(backends), **over,
    }  # fmt: skip


async def serve(deck: Deck, *routes: dict[str, Any], **settings: Any) -> None:
    """A worker with this table."""
    deck.worker("w0", **settings)
    await deck.is_up("w0")
    table = {"revision": 1, "issued_at": 0.0, "default_env": "production", "routes": list(routes)}
    await deck.put(["w0"], table)


async def post(
    session: aiohttp.ClientSession, deck: Deck, body: dict[str, Any], **headers: str
) -> tuple[int, Any, Any]:
    """(status, JSON, headers) of a completion."""
    asked = {"model": "chat", "prompt": "x", **body}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with session.post(f"{deck.url}/v1/completions", json=asked, headers=named) as answer:
        return answer.status, await answer.json(), answer.headers


async def metric(deck: Deck, line: str) -> float:
    """The value of the series that `line` names whole."""
    async with deck.admin("w0") as admin:
        return next(float(x.split()[-1]) for x in (await admin.metrics()).splitlines() if x.rsplit(" ", 1)[0] == line)


async def test_rules_come_before_weights_and_a_session_cookie_keeps_its_track(
    deck: Deck, replicas: Replicas, session: aiohttp.ClientSession
) -> None:
    await replicas(s1=says("a"), c1=says("b"), b1=says("c"))
    routing = {
        "rules": [{"track": "canary", "header": "x-beta", "equals": "1"}, {"track": "baseline", "cookie": "base", "present": True}],
        "sticky": {"cookie": "sid", "ttl_s": 60.0},
    }  # fmt: skip
    backends = (
        backend(deck, "stable", 50, "s1"),
        backend(deck, "canary", 49, "c1"),
        backend(deck, "baseline", 1, "b1"),
    )
    await serve(deck, route(deck, *backends, routing=routing))

    tracks = [(await post(session, deck, {}, x_beta="1"))[2]["X-Airboss-Track"] for _ in range(5)]
    assert tracks == ["canary"] * 5
    tracks = [(await post(session, deck, {}, cookie="base=1"))[2]["X-Airboss-Track"] for _ in range(5)]
    assert tracks == ["baseline"] * 5

    met = set()
    for _ in range(12):
        _, _, headers = await post(session, deck, {})
        cookie = headers["Set-Cookie"].partition(";")[0]
        assert cookie.startswith("sid=")
        assert "HttpOnly" in headers["Set-Cookie"]
        again = [await post(session, deck, {}, cookie=cookie) for _ in range(3)]
        assert {h["X-Airboss-Track"] for _, _, h in again} == {headers["X-Airboss-Track"]}
        assert not any("Set-Cookie" in h for _, _, h in again)
        met.add(headers["X-Airboss-Track"])
    assert {"stable", "canary"} <= met


async def test_a_replica_that_answers_pings_and_fails_requests_is_left_out_but_never_the_last_one(
    deck: Deck, replicas: Replicas, session: aiohttp.ClientSession
) -> None:
    bad, _, canary = await replicas(s1=says("no", status=500), s2=says("yes"), c1=says("no", status=500))
    routing = {"breaker": {"consecutive_5xx": 3, "ejection_s": 60.0, "ejection_max_s": 60.0},
               "rules": [{"track": "canary", "header": "x-beta", "equals": "1"}]}  # fmt: skip
    await serve(
        deck, route(deck, backend(deck, "stable", 99, "s1", "s2"), backend(deck, "canary", 1, "c1"), routing=routing)
    )

    codes = [(await post(session, deck, {}, x_session_id="s"))[0] for _ in range(12)]
    assert codes.count(500) == 3 == len(bad.asked)
    assert codes[-4:] == [200] * 4
    series = 'airboss_circuit_open{env="production",release="stable-1",replica="s1",service="chat",track="stable"}'
    assert await metric(deck, series) == 1
    assert await metric(deck, 'airboss_circuit_opened_total{cause="5xx"}') == 1
    codes = [(await post(session, deck, {}, x_beta="1"))[0] for _ in range(8)]
    assert codes == [500] * 8  # the canary has one replica: that it is bad must go on showing
    assert len(canary.asked) == 8


async def test_a_circuit_that_was_open_for_its_time_is_tried_again_and_closes(
    deck: Deck, replicas: Replicas, session: aiohttp.ClientSession
) -> None:
    ill, _ = await replicas(s1=says("no", status=500), s2=says("yes"))
    routing = {"breaker": {"consecutive_5xx": 1, "ejection_s": 0.3, "ejection_max_s": 0.3}}
    await serve(deck, route(deck, backend(deck, "stable", 100, "s1", "s2"), routing=routing))
    while not ill.asked:
        await post(session, deck, {})
    ill.behave = says("well")
    asked = len(ill.asked)

    async def is_back() -> bool:
        assert (await post(session, deck, {}))[0] == 200
        return len(ill.asked) >= asked + 3

    await until(is_back, 5)


async def test_a_retry_budget_that_is_spent_gives_the_failure_to_the_client(
    deck: Deck, replicas: Replicas, session: aiohttp.ClientSession
) -> None:
    await replicas(s1=babbles, s2=babbles)
    routing = {"retry": {"budget_pct": 0.0, "minimum": 1}, "breaker": {"consecutive_breaks": 0}}
    await serve(deck, route(deck, backend(deck, "stable", 100, "s1", "s2"), routing=routing))
    assert [(await post(session, deck, {}))[0] for _ in range(3)] == [502] * 3
    assert await metric(deck, "airboss_retries_refused_total") == 2


async def test_another_service_answers_when_one_cannot_and_the_answer_says_so(
    deck: Deck, replicas: Replicas, session: aiohttp.ClientSession
) -> None:
    _, small, _ = await replicas(l1=says("no", status=500), m1=says("small", tokens=50), t1=says("thrifty", tokens=4))
    small_route = route(deck, backend(deck, "stable", 100, "m1"), service="small")
    large = route(
        deck, backend(deck, "stable", 100, "l1"), service="large",
        routing={"choose": {"fallback": ["small"]}, "breaker": {"consecutive_5xx": 2, "ejection_s": 60.0, "ejection_max_s": 60.0}},
    )  # fmt: skip
    gone = route(deck, backend(deck, "stable", 100, "x1"), service="gone", routing={"choose": {"fallback": ["small"]}})
    thrifty = route(
        deck, backend(deck, "stable", 100, "t1"), service="thrifty",
        routing={"choose": {"fallback": ["small"], "budget_tokens": 5}},
    )  # fmt: skip
    await serve(deck, small_route, large, gone)

    status, body, headers = await post(session, deck, {"model": "gone"})
    assert (status, body["served_by"]) == (200, "m1")
    assert headers["X-Airboss-Fallback"] == "gone; reason=no_replica"
    assert headers["X-Airboss-Service"] == "small"
    assert small.asked[-1][1] == {"model": "small", "prompt": "x"}

    assert [(await post(session, deck, {"model": "large"}))[0] for _ in range(2)] == [500, 500]
    status, body, headers = await post(session, deck, {"model": "large"})
    assert (status, body["served_by"], headers["X-Airboss-Fallback"]) == (200, "m1", "large; reason=breaker_open")

    table = {"revision": 2, "issued_at": 0.0, "default_env": "production", "routes": [small_route, thrifty]}
    await deck.put(["w0"], table)
    assert "X-Airboss-Fallback" not in (await post(session, deck, {"model": "thrifty"}))[2]
    status, body, headers = await post(session, deck, {"model": "thrifty"})
    assert (status, body["served_by"], headers["X-Airboss-Fallback"]) == (200, "m1", "thrifty; reason=over_budget")
    assert await metric(deck, 'airboss_fallback_total{reason="over_budget",service="thrifty",to="small"}') == 1
    assert await metric(deck, 'airboss_fallback_total{reason="load",service="thrifty",to="small"}') == 0


async def test_a_request_falls_back_though_its_replica_died_only_now(
    deck: Deck, replicas: Replicas, session: aiohttp.ClientSession
) -> None:
    last, _ = await replicas(l1=says("large"), m1=says("small"))
    await serve(
        deck,
        route(deck, backend(deck, "stable", 100, "m1"), service="small"),
        route(deck, backend(deck, "stable", 100, "l1"), service="large", routing={"choose": {"fallback": ["small"]}}),
        ping_every_s=60.0,
    )
    assert (await post(session, deck, {"model": "large"}))[1]["served_by"] == "l1"
    await last.close()
    Path(last.path).unlink()
    status, body, headers = await post(session, deck, {"model": "large"})
    assert (status, body["served_by"], headers["X-Airboss-Fallback"]) == (200, "m1", "large; reason=no_replica")


async def test_a_policy_chooses_among_services_by_what_is_asked_and_what_is_busy(
    deck: Deck, replicas: Replicas, session: aiohttp.ClientSession
) -> None:
    large, _ = await replicas(l1=says("large"), m1=says("small"))
    choose = {
        "policy": "quality_first",
        "tiers": [{"service": "large", "quality": 9, "busy_at": 50}, {"service": "small", "quality": 1}],
        "rules": [{"to": "small", "request_class": "batch"}],
    }
    await serve(
        deck,
        route(deck, backend(deck, "stable", 100, "m1"), routing={"choose": choose}),
        route(deck, backend(deck, "stable", 100, "m1"), service="small"),
        route(deck, backend(deck, "stable", 100, "l1"), service="large", routing={"load": {"max_inflight": 2}}),
    )
    assert (await post(session, deck, {}))[2]["X-Airboss-Service"] == "large"
    assert (await post(session, deck, {}, x_airboss_class="batch"))[2]["X-Airboss-Service"] == "small"
    large.behave = hangs
    held = asyncio.create_task(post(session, deck, {}))

    async def is_held() -> bool:
        return len(large.asked) == 2

    await until(is_held)
    assert (await post(session, deck, {}))[2]["X-Airboss-Service"] == "small"
    held.cancel()


async def test_as_a_route_fills_answers_are_cut_short_and_the_lowest_class_waits_first(
    deck: Deck, replicas: Replicas, session: aiohttp.ClientSession
) -> None:
    (replica,) = await replicas(s1=hangs)
    load = {"max_inflight": 4, "batch": 75, "background": 50, "stages": [{"at": 50, "cap_max_tokens": 16}]}
    await serve(deck, route(deck, backend(deck, "stable", 100, "s1"), routing={"load": load}))
    held = [asyncio.create_task(post(session, deck, {"max_tokens": 99})) for _ in range(2)]

    async def both_held() -> bool:
        return len(replica.asked) == 2

    await until(both_held)
    replica.behave = says("short")
    status, body, headers = await post(session, deck, {}, x_airboss_class="background")
    assert (status, body["error"]["code"]) == (503, "shed_background")
    assert headers["Retry-After"]
    assert (await post(session, deck, {"max_tokens": 99}, x_airboss_class="batch"))[0] == 200
    assert replica.asked[-1][1]["max_tokens"] == 16
    assert [body["max_tokens"] for _, body in replica.asked[:2]] == [99, 99]
    replica.behave = hangs
    held.append(asyncio.create_task(post(session, deck, {})))

    async def three_held() -> bool:
        return len(replica.asked) == 4

    await until(three_held)
    replica.behave = says("short")
    assert (await post(session, deck, {}, x_airboss_class="batch"))[1]["error"]["code"] == "shed_batch"
    assert (await post(session, deck, {}))[0] == 200
    for reason, times in (("shed_background", 1), ("shed_batch", 1), ("shed_interactive", 0)):
        assert await metric(deck, f'airboss_rejected_total{{reason="{reason}"}}') == times
    for task in held:
        task.cancel()


async def test_a_client_may_be_hastier_than_the_route_and_its_haste_is_no_failure_of_the_service(
    deck: Deck, replicas: Replicas, session: aiohttp.ClientSession
) -> None:
    await replicas(s1=hangs)
    await serve(deck, route(deck, backend(deck, "stable", 100, "s1"), deadline_s=0.4, routing={"max_body_bytes": 500}))
    status, body, _ = await post(session, deck, {}, x_request_timeout_ms="50")
    assert (status, body["error"]["code"]) == (504, "deadline")
    assert "0.05 s" in body["error"]["message"]
    assert (await post(session, deck, {}, timeout="3600"))[0] == 504
    assert (await post(session, deck, {}, timeout="soon"))[0] == 400
    assert (await post(session, deck, {"prompt": "x" * 600}))[0] == 413

    async def counted() -> bool:
        return await deck.classes(["w0"]) == {"cancel": 1, "deadline": 1}

    await until(counted, 5)


async def test_a_mirror_shows_requests_to_the_shadow_and_writes_down_distances_and_no_text(
    deck: Deck, replicas: Replicas, session: aiohttp.ClientSession
) -> None:
    _, shadow = await replicas(s1=says("one two three four secret"), h1=says("one two three four other", tokens=9))
    routing = {"mirror": {"share": 100.0, "concurrency": 1, "queue": 1, "deadline_s": 5.0}}
    await serve(
        deck, route(deck, backend(deck, "stable", 100, "s1"), backend(deck, "shadow", 0, "h1"), routing=routing)
    )
    status, body, headers = await post(session, deck, {"prompt": "hush"})
    assert (status, body["served_by"], headers["X-Airboss-Track"]) == (200, "s1", "stable")

    async def results() -> dict[str, float]:
        names = ("ok", "error", "deadline", "broken", "no_replica", "dropped")
        found = {name: await metric(deck, f'airboss_mirror_total{{result="{name}"}}') for name in names}
        return {name: number for name, number in found.items() if number}

    async def shown() -> bool:
        return await results() == {"ok": 1}

    await until(shown)
    told, asked = shadow.asked[0]
    assert told["x-airboss-shadow"] == "1"
    assert told["x-request-id"] == headers["X-Request-Id"]
    assert asked == {"model": "chat", "prompt": "hush"}

    async def written() -> bool:
        return (deck.dir / "mirror-w0-1.jsonl").exists()

    await until(written, 5)
    text = (deck.dir / "mirror-w0-1.jsonl").read_text()
    line = json.loads(text)
    assert (line["release"], line["shadow_release"], line["code"], line["shadow_code"]) == (
        "stable-1",
        "shadow-1",
        200,
        200,
    )
    assert (line["tokens"], line["shadow_tokens"], line["distance"]) == (5, 9, 0.2)
    assert "secret" not in text and "hush" not in text

    shadow.behave = hangs
    for _ in range(4):  # one is shown, one waits, and two are too many: no user notices
        assert (await post(session, deck, {}))[0] == 200
    assert await results() == {"ok": 1, "dropped": 2}
    assert await deck.classes(["w0"]) in ({"ok": 1}, {"ok": 5})

    async def counted() -> bool:
        return await deck.classes(["w0"]) == {"ok": 5}

    await until(counted, 5)
    assert {row["track"] for row in await deck.rows(["w0"])} == {"stable"}


async def switched_under_load(deck: Deck, replicas: Replicas, changes: int) -> None:
    """So many weight changes, each acknowledged before the next, while clients ask."""
    await replicas(s1=says("a"), c1=says("b"))
    await serve(deck, route(deck, backend(deck, "stable", 100, "s1"), backend(deck, "canary", 0, "c1")))
    load = Load(deck.url, clients=4)
    async with deck.admin("w0") as admin:
        for number in range(changes):
            weight = (number * 37) % 101
            backends = (backend(deck, "stable", 100 - weight, "s1"), backend(deck, "canary", weight, "c1"))
            table = {"revision": number + 2, "issued_at": 0.0, "default_env": "production"}
            await admin.put_table({**table, "routes": [route(deck, *backends)]})
            if number % 50 == 0:
                await load.reaches(len(load.samples) + 4)
    samples = await load.stop()
    assert [s for s in samples if s[0] != 200] == []
    assert {s[2]["X-Airboss-Track"] for s in samples} == {"stable", "canary"}


async def test_three_hundred_weight_changes_under_load_cost_no_request(deck: Deck, replicas: Replicas) -> None:
    await switched_under_load(deck, replicas, 300)


@pytest.mark.long
async def test_a_thousand_weight_changes_under_load_cost_no_request(deck: Deck, replicas: Replicas) -> None:
    await switched_under_load(deck, replicas, 1000)


async def test_streams_are_mirrored_too_and_compared_by_what_they_said(
    deck: Deck, replicas: Replicas, session: aiohttp.ClientSession
) -> None:
    await replicas(s1=streams(4, then="ends"), h1=streams(3, then="ends"))
    routing = {"mirror": {"share": 100.0}}
    await serve(
        deck, route(deck, backend(deck, "stable", 100, "s1"), backend(deck, "shadow", 0, "h1"), routing=routing)
    )
    asked = {"model": "chat", "prompt": "x", "stream": True}
    async with session.post(f"{deck.url}/v1/completions", json=asked) as answer:
        assert (await answer.read()).endswith(b"data: [DONE]\n\n")

    async def written() -> bool:
        return (deck.dir / "mirror-w0-1.jsonl").exists()

    await until(written, 5)
    line = json.loads((deck.dir / "mirror-w0-1.jsonl").read_text())
    assert (line["result"], line["tokens"], line["shadow_tokens"]) == ("ok", 4, 3)
    assert line["distance"] == round(1 - 2 * 3 / 7, 4)  # three words of four and three are the same


async def test_what_a_shadow_sets_going_is_refused_and_counted(
    deck: Deck, replicas: Replicas, session: aiohttp.ClientSession
) -> None:
    """Case 72: a tool that a copy calls, or feedback that it writes, comes back here with the mark of a copy."""
    (stable,) = await replicas(s1=says("one"))
    await serve(deck, route(deck, backend(deck, "stable", 100, "s1")))
    status, body, _ = await post(session, deck, {}, x_airboss_shadow="1")
    assert (status, body["error"]["code"], stable.asked) == (403, "shadow", [])
    mark = {"x-airboss-shadow": "1"}
    said = {"request_id": "r1-x", "value": "up", "kind": "implicit"}
    async with session.post(f"{deck.url}/feedback", json=said, headers=mark) as answer:
        assert answer.status == 403
    assert await metric(deck, 'airboss_rejected_total{reason="shadow"}') == 2
    assert not list(deck.dir.glob("feedback*.jsonl"))
