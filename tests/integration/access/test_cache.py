"""Answers given again, through a real gateway."""

from __future__ import annotations

import asyncio
from typing import Any

from engine.gateway.access.cache import AnswerCache, Keeping
from state.access_config import CacheConfig
from state.key_file import add_key, make_key

CACHE = {"cache": {"ttl_s": 60.0}}
SHARED = {"cache": {"ttl_s": 60.0, "is_shared": True}}


async def numbers(house: Any, *asked: dict[str, Any]) -> list[tuple[str, int]]:
    """(what the cache said, which of the backend's answers it was) for each request."""
    answers = [await house.ask(**how) for how in asked]
    return [(headers["X-Airboss-Cache"], body["n"]) for _, body, headers in answers]


async def test_a_deterministic_question_is_asked_once_and_answered_as_often_as_it_comes(house: Any) -> None:
    await house.start(access=CACHE)
    greedy: dict[str, Any] = {"temperature": 0}
    assert await numbers(house, greedy, greedy, {"seed": 3}, {"seed": 3}, {"seed": 4}) == [
        ("miss", 1), ("hit", 1), ("miss", 2), ("hit", 2), ("miss", 3)
    ]  # fmt: skip
    assert len(house.backend.seen) == 3
    assert [house.metric("airboss_cache_requests_total", result=r) for r in ("hit", "miss", "bypass")] == [2, 3, 0]


async def test_a_hit_is_no_evidence_about_the_release_and_stands_in_a_class_of_its_own(house: Any) -> None:
    await house.start(access=CACHE)
    for _ in range(3):
        await house.ask(temperature=0)
    assert house.metric("airboss_requests_total", code="ok") == 1
    assert house.metric("airboss_requests_total", code="cached") == 2
    assert house.metric("airboss_request_duration_seconds_count") == 1
    assert [line["class"] for line in house.ledger()] == ["ok", "cached", "cached"]


async def test_chance_and_a_callers_wish_for_a_fresh_answer_go_past_the_cache(house: Any) -> None:
    await house.start(access=CACHE)
    fresh = {"temperature": 0, "headers": {"Cache-Control": "no-cache"}}
    asked: list[dict[str, Any]] = [{}, {"temperature": 0.7}, {"temperature": False}, {"temperature": 0}, fresh]
    assert await numbers(house, *asked) == [("bypass", 1), ("bypass", 2), ("bypass", 3), ("miss", 4), ("bypass", 5)]
    await house.put(access={"cache": {"ttl_s": 60.0, "is_always": True}})
    assert await numbers(house, {}, {}) == [("miss", 6), ("hit", 6)]


async def test_the_order_of_fields_makes_no_other_question_and_another_field_does(house: Any) -> None:
    await house.start(access=CACHE)
    first = {"temperature": 0, "max_tokens": 4}
    assert await numbers(house, first, {"max_tokens": 4, "temperature": 0}, {**first, "stop": "x"}) == [
        ("miss", 1), ("hit", 1), ("miss", 2)
    ]  # fmt: skip
    assert (await house.ask(**first, path="/v1/chat/completions"))[2]["X-Airboss-Cache"] == "miss"


async def test_another_release_answers_for_itself(house: Any) -> None:
    await house.start(access=CACHE)
    assert await numbers(house, {"temperature": 0}) == [("miss", 1)]
    await house.put(release="chat-2", access=CACHE)
    assert await numbers(house, {"temperature": 0}) == [("miss", 2)]
    await house.put(release="chat-1", access=CACHE)
    assert await numbers(house, {"temperature": 0}) == [("hit", 1)]


async def test_no_tenant_reads_anothers_answer_unless_the_service_shares_them(house: Any) -> None:
    keys = {}
    for name, tenant in (("ana", "acme"), ("ben", "acme"), ("cy", "rival"), ("dee", ""), ("eve", "")):
        made = make_key(name, tenant=tenant)
        add_key(house.root / "airboss-keys.toml", made.key)
        keys[name] = made.secret
    await house.start({"auth": {"mode": "keys"}}, access=CACHE)
    asked = [{"temperature": 0, "key": keys[name]} for name in ("ana", "ben", "cy", "dee", "eve")]
    assert await numbers(house, *asked) == [("miss", 1), ("hit", 1), ("miss", 2), ("miss", 3), ("miss", 4)]
    await house.put(access=SHARED)
    assert await numbers(house, *asked[:3]) == [("miss", 5), ("hit", 5), ("hit", 5)]


async def test_a_stream_is_given_again_as_the_same_stream(house: Any) -> None:
    house.backend.pieces = ("one ", "two ", "three")
    await house.start(access=CACHE)
    first, again = await house.stream(temperature=0), await house.stream(temperature=0)
    assert (first[1], first[2]["X-Airboss-Cache"]) == (again[1], "miss")
    assert again[2]["X-Airboss-Cache"] == "hit" and again[2]["Content-Type"].startswith("text/event-stream")
    assert len(again[1]) == 4 and len(house.backend.seen) == 1
    assert (await house.ask(temperature=0))[2]["X-Airboss-Cache"] == "miss", "a whole answer is another question"


async def test_failures_and_large_answers_are_not_kept(house: Any) -> None:
    await house.start(access={"cache": {"ttl_s": 60.0, "max_answer_bytes": 400}})
    house.backend.status = 500
    assert await numbers(house, {"temperature": 0}) == [("miss", 1)]
    house.backend.status, house.backend.text = 200, "x" * 500
    assert await numbers(house, {"temperature": 0}) == [("miss", 2)]
    house.backend.text = "short"
    assert await numbers(house, {"temperature": 0}, {"temperature": 0}) == [("miss", 3), ("hit", 3)]


async def test_a_service_without_a_cache_says_nothing_of_one(house: Any) -> None:
    await house.start()
    assert "X-Airboss-Cache" not in (await house.ask(temperature=0))[2]


async def test_equal_questions_at_one_time_are_asked_once_and_a_failure_is_nobody_elses(house: Any) -> None:
    held, arrived, real = asyncio.Event(), asyncio.Event(), house.backend.answer

    async def hold(request: Any) -> Any:
        arrived.set()
        await held.wait()
        return await real(request)

    house.backend.answer = hold
    await house.start(access=CACHE)
    asking = [asyncio.create_task(house.ask(temperature=0)) for _ in range(4)]
    await arrived.wait()
    other = asyncio.create_task(house.ask("another question", temperature=0))
    held.set()
    answers = [await task for task in asking]
    assert sorted(headers["X-Airboss-Cache"] for _, _, headers in answers) == ["hit", "hit", "hit", "miss"]
    assert (await other)[2]["X-Airboss-Cache"] == "miss"
    assert len(house.backend.seen) == 2
    held.clear()
    house.backend.status = 500
    failing = [asyncio.create_task(house.ask("a third", temperature=0)) for _ in range(3)]
    held.set()
    assert {(await task)[0] for task in failing} == {500}
    assert len(house.backend.seen) == 5, "each of those who waited in vain asked for himself"


async def test_a_hit_costs_no_tokens(house: Any) -> None:
    house.backend.usage = {"prompt_tokens": 30, "completion_tokens": 30}
    await house.start({"rate": {"address": {"tokens_per_minute": 100}}}, access=CACHE)
    assert [(await house.ask(temperature=0, max_tokens=30))[0] for _ in range(5)] == [200] * 5


def keeping(number: int, size: int, ttl_s: float = 60.0) -> Keeping:
    from adapters.access import CachePolicy
    from adapters.ports import Backend

    kept = Keeping(
        bytes([number]), CachePolicy(ttl_s, max_answer_bytes=1 << 20), Backend("stable", "r", 100, ()), parts=[]
    )
    kept.add(b"x" * size)
    return kept


def test_the_cache_is_bounded_in_bytes_in_number_and_in_time() -> None:
    now = [0.0]
    cache = AnswerCache(CacheConfig(max_bytes=5000, max_entries=3), lambda: now[0])
    for number in range(5):
        cache.put(keeping(number, 10))
    assert len(cache) == 3 and cache.get(bytes([4])) is not None
    cache.put(keeping(9, 4400))
    assert len(cache) == 1 and cache.get(bytes([9])) is not None
    cache.put(keeping(8, 9000))
    assert cache.get(bytes([8])) is None and cache.get(bytes([9])) is not None, "what cannot fit drives nothing out"
    now[0] = 61.0
    assert cache.get(bytes([9])) is None


async def test_a_credential_that_only_the_replica_checks_opens_no_answer_given_to_another(house: Any) -> None:
    await house.start(
        access={"cache": {"ttl_s": 60.0, "is_shared": False, "is_always": True, "max_answer_bytes": 4096}}
    )
    results = [(await house.ask("x", key=key))[2]["X-Airboss-Cache"] for key in ("ana", "ben", "ana", "")]
    assert results == ["miss", "miss", "hit", "miss"]
