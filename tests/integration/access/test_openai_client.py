"""The OpenAI client library against a gateway that checks: its own exceptions, its own streams."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from state.key_file import add_key, make_key


async def client_of(house: Any, key: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{house.url}/v1", api_key=key, max_retries=0)


async def test_the_clients_own_exceptions_say_what_the_gateway_refused(house: Any) -> None:
    keys = {}
    for name, fields in (("ana", {}), ("elsewhere", {"services": ["other"]}), ("poor", {"requests_per_minute": 1})):
        made = make_key(name, **fields)
        add_key(house.root / "airboss-keys.toml", made.key)
        keys[name] = made.secret
    rule = {"name": "no-secrets", "kind": "regex", "on": "both", "action": "block", "patterns": ["s3cret"]}
    await house.start({"auth": {"mode": "keys"}}, access={"safety": {"rules": [rule]}})

    async def ask(key: str, prompt: str = "hello") -> Any:
        async with await client_of(house, key) as client:
            return await client.chat.completions.create(model="chat", messages=[{"role": "user", "content": prompt}])

    assert (await ask(keys["ana"])).choices[0].message.content == "the answer"
    with pytest.raises(openai.AuthenticationError) as unknown:
        await ask("ab-wrong")
    assert unknown.value.code == "invalid_api_key"
    with pytest.raises(openai.PermissionDeniedError):
        await ask(keys["elsewhere"])
    with pytest.raises(openai.BadRequestError) as blocked:
        await ask(keys["ana"], "the s3cret")
    assert blocked.value.code == "content_policy_violation"
    await ask(keys["poor"])
    with pytest.raises(openai.RateLimitError) as limited:
        await ask(keys["poor"])
    assert int(limited.value.response.headers["retry-after"]) >= 1


async def test_the_clients_streams_come_through_kept_checked_and_cut(house: Any) -> None:
    house.backend.pieces = ("to ", "be ", "or ", "not")
    rule = {"name": "no-secrets", "kind": "regex", "on": "answer", "action": "block", "patterns": ["s3cret"]}
    await house.start(access={"cache": {"ttl_s": 60.0}, "safety": {"rules": [rule], "window_chars": 8}})

    async def read() -> str:
        async with await client_of(house, "none") as client:
            stream = await client.completions.create(model="chat", prompt="x", stream=True, temperature=0)
            return "".join([event.choices[0].text async for event in stream])

    assert [await read(), await read()] == ["to be or not"] * 2
    assert len(house.backend.seen) == 1
    house.backend.pieces = ("fine ", "and ", "then a s3cret ", "came")
    await house.put(release="chat-2", access={"safety": {"rules": [rule], "window_chars": 8}})
    with pytest.raises(openai.APIError, match="no-secrets"):
        await read()
