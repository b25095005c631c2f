"""Rate limits through a real gateway."""

from __future__ import annotations

import asyncio
from typing import Any

from state.key_file import add_key, make_key


def new_key(house: Any, name: str, **fields: Any) -> str:
    made = make_key(name, **fields)
    add_key(house.root / "airboss-keys.toml", made.key)
    return made.secret


async def test_beyond_its_limit_a_caller_gets_429_as_openai_says_it_and_the_service_stays_clean(house: Any) -> None:
    await house.start({"rate": {"address": {"requests_per_minute": 2}}})
    first, second, third = [await house.ask() for _ in range(3)]
    assert first[0] == second[0] == 200
    assert (first[2]["X-Ratelimit-Limit-Requests"], first[2]["X-Ratelimit-Remaining-Requests"]) == ("2", "1")
    assert third[0] == 429 and third[1]["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(third[2]["Retry-After"]) <= 60
    assert house.metric("airboss_rejected_total", reason="rate_limited") == 1
    assert house.metric("airboss_requests_total") == 2, "a caller's own excess is no event of the service"


async def test_tokens_are_charged_by_what_the_answer_says_it_took(house: Any) -> None:
    house.backend.usage = {"prompt_tokens": 40, "completion_tokens": 60}
    await house.start({"rate": {"address": {"tokens_per_minute": 120}}})
    assert (await house.ask(max_tokens=10))[0] == 200
    status, body, headers = await house.ask(max_tokens=30)
    assert (status, body["error"]["type"]) == (429, "tokens")
    assert headers["X-Ratelimit-Limit-Tokens"] == "120"
    assert house.metric("airboss_rejected_total", reason="token_limited") == 1


async def test_an_answer_that_never_came_gives_its_tokens_back(house: Any) -> None:
    house.backend.status, house.backend.usage = 500, {}
    await house.start({"rate": {"address": {"tokens_per_minute": 100}}})
    for _ in range(3):
        assert (await house.ask(max_tokens=80))[0] == 500


async def test_each_key_has_its_own_limit_and_two_at_once_cannot_share_one_place(house: Any) -> None:
    poor, rich = new_key(house, "poor", requests_per_minute=1), new_key(house, "rich", requests_per_minute=0)
    await house.start({"auth": {"mode": "keys"}, "rate": {"key": {"requests_per_minute": 5}}})
    statuses = sorted((await asyncio.gather(*(house.ask(key=poor) for _ in range(4)))), key=lambda a: a[0])
    assert [status for status, _, _ in statuses] == [200, 429, 429, 429]
    assert {status for status, _, _ in [await house.ask(key=rich) for _ in range(10)]} == {200}


async def test_the_prober_is_held_to_no_limit_and_uses_up_nobodys(house: Any) -> None:
    (house.root / "probe.key").write_text("ab-probe")
    await house.start({"rate": {"address": {"requests_per_minute": 1}}})
    probe = {"X-Airboss-Probe": "1"}
    assert [(await house.ask(key="ab-probe", headers=probe))[0] for _ in range(3)] == [200] * 3
    assert [(await house.ask())[0] for _ in range(2)] == [200, 429]


async def test_a_stream_tells_its_limits_too(house: Any) -> None:
    await house.start({"rate": {"address": {"requests_per_minute": 9}}})
    status, events, headers = await house.stream()
    assert (status, events[-1]) == (200, "[DONE]")
    assert headers["X-Ratelimit-Remaining-Requests"] == "8"
