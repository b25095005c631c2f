"""Checks of prompts and answers, through a real gateway."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from adapters.access import SafetyPolicy, SafetyRule
from engine.gateway.access.safety.hooks import Hooks
from engine.gateway.access.safety.review import Blocked, CheckCounts, Review
from engine.gateway.access.safety.streaming import StreamReview


def rule(
    name: str = "no-secrets", kind: str = "regex", on: str = "both", action: str = "block", **more: Any
) -> dict[str, Any]:
    if kind == "regex":
        more.setdefault("patterns", ["s3cret-[0-9]+"])
    return {"name": name, "kind": kind, "on": on, "action": action, **more}


def safety(*rules: dict[str, Any], window: int = 20) -> dict[str, Any]:
    return {"safety": {"rules": list(rules), "window_chars": window}}


async def checks(house: Any, name: str) -> dict[str, float]:
    verdicts = ("pass", "flag", "redact", "block", "error")
    return {v: n for v in verdicts if (n := house.metric("airboss_quality_checks_total", check=name, verdict=v))}


async def test_a_prompt_that_is_not_allowed_reaches_no_replica_and_is_the_callers_own_fault(house: Any) -> None:
    await house.start(access=safety(rule(on="prompt")))
    status, body, headers = await house.ask("my s3cret-42 is")
    assert (status, body["error"]["code"]) == (400, "content_policy_violation")
    assert "no-secrets" in body["error"]["message"] and "s3cret" not in body["error"]["message"]
    assert headers["X-Airboss-Release"] == "chat-1"
    assert not house.backend.seen
    assert (await house.ask("harmless"))[0] == 200
    assert await checks(house, "no-secrets") == {"pass": 1, "block": 1}
    lines = house.ledger()
    assert (lines[0]["class"], lines[0]["checks"]) == ("4xx", {"no-secrets": "block"}) and "checks" not in lines[1]
    assert house.metric("airboss_requests_total", code="4xx") == 1
    assert house.metric("airboss_rejected_total", reason="content_policy") == 1


async def test_every_message_of_a_chat_is_looked_at_and_redacted_where_it_stands(house: Any) -> None:
    await house.start(access=safety(rule("pii", "pii", "prompt", "redact")))
    parts = [{"type": "text", "text": "call +49 151 2345 6789 now"}]
    messages = [{"role": "system", "content": "be kind"}, {"role": "user", "content": parts},
                {"role": "user", "content": "or ana@example.org, card 4111 1111 1111 1111"}]  # fmt: skip
    status, _, _ = await house.ask(path="/v1/chat/completions", messages=messages)
    assert status == 200
    seen = house.backend.seen[0][1]["messages"]
    assert seen[0]["content"] == "be kind"
    assert seen[1]["content"][0]["text"] == "call [phone] now"
    assert seen[2]["content"] == "or [email], card [card]"
    assert house.ledger()[0]["checks"] == {"pii": "redact"}


async def test_an_answer_is_redacted_before_it_is_passed_on_and_its_length_is_true(house: Any) -> None:
    house.backend.text = "write to ana@example.org"
    await house.start(access=safety(rule("pii", "pii", "answer", "redact", patterns=["email"])))
    status, body, _ = await house.ask()
    assert (status, body["choices"][0]["text"]) == (200, "write to [email]")
    assert body["choices"][0]["message"]["content"] == "write to [email]"


async def test_an_answer_that_is_not_allowed_is_withheld_and_counts_as_no_failure(house: Any) -> None:
    house.backend.text = "it is s3cret-7"
    await house.start(access=safety(rule(on="answer")))
    status, body, _ = await house.ask()
    assert (status, body["error"]["code"]) == (400, "content_policy_violation")
    assert house.metric("airboss_requests_total", code="4xx") == 1
    assert house.ledger()[0]["checks"] == {"no-secrets": "block"}


async def test_a_flag_lets_pass_and_is_written_down(house: Any) -> None:
    await house.start(access=safety(rule(action="flag"), rule("long", "max_chars", "prompt", "flag", max_chars=5)))
    status, _, _ = await house.ask("s3cret-1")
    assert status == 200
    assert house.ledger()[0]["checks"] == {"no-secrets": "flag", "long": "flag"}


async def test_a_prompt_that_is_too_long_is_refused_with_both_numbers(house: Any) -> None:
    await house.start(access=safety(rule("long", "max_chars", "prompt", max_chars=5)))
    assert (await house.ask("12345"))[0] == 200
    status, body, _ = await house.ask("123456")
    assert status == 400 and "6 characters" in body["error"]["message"] and "5 are allowed" in body["error"]["message"]


@pytest.mark.parametrize("size", [1, 3, 7, 50])
async def test_a_stream_is_redacted_however_its_text_is_cut(house: Any, said: Any, size: int) -> None:
    text = "first ana@example.org then s3cret-123 and at last ben@example.org"
    house.backend.pieces = tuple(text[i : i + size] for i in range(0, len(text), size))
    await house.start(
        access=safety(rule("pii", "pii", "answer", "redact"), rule("secrets", on="answer", action="redact"), window=24)
    )
    status, events, _ = await house.stream()
    assert (status, events[-1]) == (200, "[DONE]")
    assert said(events) == "first [email] then [redacted] and at last [email]"
    assert await checks(house, "pii") == {"redact": 1}
    assert house.metric("airboss_requests_total", code="ok") == 1


async def test_a_stream_is_cut_off_before_the_text_that_is_not_allowed(house: Any, said: Any) -> None:
    house.backend.pieces = (*(f"word{i} " for i in range(20)), "s3c", "ret-1", "23 and", *(["more "] * 50))
    await house.start(access=safety(rule(on="answer")))
    status, events, _ = await house.stream()
    assert status == 200
    assert "word10" in said(events[:-2]) and "s3c" not in said(events[:-2])
    assert json.loads(events[-2])["error"]["code"] == "content_policy_violation"
    assert house.metric("airboss_requests_total", code="4xx") == 1
    assert house.metric("airboss_requests_total", code="stream_broken") == 0


async def test_a_harmless_stream_comes_through_byte_for_byte_and_word_for_word(house: Any, said: Any) -> None:
    house.backend.pieces = tuple(f"w{i} " for i in range(40))
    await house.start()
    plain = await house.stream()
    await house.put(access=safety(rule(on="answer"), rule("long", "max_chars", "answer", max_chars=10_000)))
    house.backend.seen.clear()
    checked = await house.stream()
    assert checked[1] == plain[1]


async def test_a_stream_that_grows_too_long_is_cut(house: Any) -> None:
    house.backend.pieces = ("x" * 10,) * 20
    await house.start(access=safety(rule("long", "max_chars", "answer", max_chars=55)))
    _, events, _ = await house.stream()
    assert "more than 55 characters" in json.loads(events[-2])["error"]["message"]


@pytest.fixture
async def hook(house: Any) -> Any:
    """A hook over HTTP: says no to texts with "bad", and what it would put instead."""
    asked: list[dict[str, Any]] = []

    async def check(request: web.Request) -> web.Response:
        body = await request.json()
        asked.append(body)
        if any("break" in text for text in body["texts"]):
            return web.Response(status=500)
        is_ok = not any("bad" in text for text in body["texts"])
        better = [text.replace("bad", "good") for text in body["texts"]]
        return web.json_response({"ok": is_ok, "reason": "it is rude", "texts": better})

    app = web.Application()
    app.router.add_post("/check", check)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    asked_at = f"http://127.0.0.1:{runner.addresses[0][1]}/check"
    yield asked_at, asked
    await runner.cleanup()


async def test_a_hook_over_http_blocks_and_redacts_and_hears_what_it_is_about(house: Any, hook: Any) -> None:
    url, asked = hook
    await house.start(access=safety(rule("polite", "http", "prompt", url=url)))
    status, body, _ = await house.ask("a bad word")
    assert status == 400 and "it is rude" in body["error"]["message"]
    assert asked[0] == {"check": "polite", "on": "prompt", "service": "chat", "env": "production", "release": "chat-1",
                        "tenant": "", "texts": ["a bad word"]}  # fmt: skip
    await house.put(access=safety(rule("polite", "http", "prompt", "redact", url=url)))
    assert (await house.ask("a bad word"))[0] == 200
    assert house.backend.seen[-1][1]["prompt"] == "a good word"


async def test_a_hook_sees_a_stream_a_window_at_a_time_and_before_the_client_does(house: Any, hook: Any) -> None:
    url, asked = hook
    policy = SafetyPolicy((SafetyRule("polite", "http", "answer", "block", url=url, timeout_s=10.0),), window_chars=20)
    hooks = Hooks()
    stream = StreamReview(Review(policy, hooks, CheckCounts(), "chat", "production", "chat-1", "stable", ""))
    passed: list[bytes] = []

    async def feed_all() -> None:
        for word in (*(f"word{i} " for i in range(12)), "bad ", *["more "] * 30):
            passed.append(await stream.feed(f"data: {json.dumps({'choices': [{'text': word}]})}\n\n".encode()))

    with pytest.raises(Blocked, match="it is rude"):
        await feed_all()
    await hooks.close()
    assert b"word3" in b"".join(passed) and b"bad" not in b"".join(passed)
    assert 2 <= len(asked) < 10, "a window at a time, not an event at a time"


@pytest.mark.parametrize(("is_fail_open", "status"), [(False, 400), (True, 200)])
async def test_a_hook_that_fails_closes_or_opens_as_it_is_told(
    house: Any, hook: Any, is_fail_open: bool, status: int
) -> None:
    url, _ = hook
    await house.start(access=safety(rule("polite", "http", "prompt", url=url, is_fail_open=is_fail_open)))
    assert (await house.ask("break"))[0] == status
    gone = rule("polite", "http", "prompt", url="http://127.0.0.1:9/", is_fail_open=is_fail_open)
    await house.put(access=safety(gone))
    assert (await house.ask("fine"))[0] == status
    assert await checks(house, "polite") == {"error" if is_fail_open else "block": 2}


async def test_a_command_is_a_hook_and_one_that_hangs_or_babbles_is_a_failure(house: Any) -> None:
    said = "import json,sys; q=json.load(sys.stdin); print(json.dumps({'ok': 'bad' not in q['texts'][0]}))"
    command = rule("local", "command", "prompt", command=[sys.executable, "-I", "-c", said], timeout_s=20.0)
    await house.start(access=safety(command))
    assert [(await house.ask(p))[0] for p in ("fine", "bad")] == [200, 400]
    for broken in (["/bin/sleep", "60"], ["/bin/echo", "no json"], ["/nonexistent"], ["/bin/false"]):
        await house.put(access=safety(rule("local", "command", "prompt", command=broken, timeout_s=0.3)))
        assert (await house.ask("fine"))[0] == 400, broken


async def test_a_command_gets_none_of_the_gateways_secrets_and_dies_with_all_it_started(
    house: Any, monkeypatch: Any
) -> None:
    monkeypatch.setenv("JWT_SECRET", "hush")
    pid_file = house.root / "pid"
    tells = 'test -z "$JWT_SECRET" && echo \'{"ok": true}\''
    await house.start(
        access=safety(rule("local", "command", "prompt", command=["/bin/sh", "-c", tells], timeout_s=20.0))
    )
    assert (await house.ask("fine"))[0] == 200
    hangs = f"sleep 60 & echo $! > {pid_file}; wait"
    await house.put(access=safety(rule("local", "command", "prompt", command=["/bin/sh", "-c", hangs], timeout_s=1.0)))
    assert (await house.ask("fine"))[0] == 400
    grandchild = Path(f"/proc/{int(pid_file.read_text())}/stat")
    async with asyncio.timeout(10):  # killed; whoever inherits it buries it in its own time
        while grandchild.exists() and grandchild.read_text().rsplit(")", 1)[1].split()[0] != "Z":
            await asyncio.sleep(0.01)


async def test_a_prompt_that_nobody_can_read_does_not_pass_a_check_and_breaks_nothing(house: Any) -> None:
    deep: Any = "s3cret-1"
    for _ in range(400):
        deep = [deep]
    await house.start({"rate": {"address": {"tokens_per_minute": 100_000}}}, access=safety(rule(on="prompt")))
    status, body, _ = await house.ask(deep)
    assert (status, body["error"]["code"]) == (400, "content_policy_violation")
    for tokens in ([15496, 995], [[15496], [995]]):
        status, body, _ = await house.ask(tokens)
        assert status == 400 and "token numbers" in body["error"]["message"]
    assert not house.backend.seen
    await house.put(access=safety(rule(on="answer")))
    assert (await house.ask([15496, 995]))[0] == 200


async def test_an_answer_nobody_can_read_does_not_pass_a_check(house: Any) -> None:
    async def packed(request: web.Request) -> web.Response:
        return web.Response(
            body=b"\x1f\x8b not really", headers={"Content-Encoding": "gzip"}, content_type="application/json"
        )

    house.backend.answer = packed
    await house.start(access=safety(rule(on="answer")))
    async with house.session.post("/v1/completions", json={"model": "chat", "prompt": "x"}) as answer:
        assert answer.status == 400
        assert (await answer.json())["error"]["code"] == "content_policy_violation"


async def test_what_was_redacted_is_what_the_cache_keeps_and_compares(house: Any) -> None:
    house.backend.text = "from ana@example.org"
    both = {**safety(rule("pii", "pii", "both", "redact")), "cache": {"ttl_s": 60.0}}
    await house.start(access=both)
    one = await house.ask("I am ben@example.org", temperature=0)
    two = await house.ask("I am cy@example.org", temperature=0)
    assert (two[2]["X-Airboss-Cache"], two[1]) == ("hit", one[1])
    assert one[1]["choices"][0]["text"] == "from [email]"
    assert [house.metric("airboss_cache_requests_total", result=r) for r in ("hit", "miss")] == [1, 1]


async def test_an_unsafe_answer_is_counted_by_caller_and_a_prompt_is_not(house: Any) -> None:
    house.backend.text = "the key is s3cret-42"
    await house.start(access=safety(rule(action="flag")))
    for caller in ("ana", "bob", "ana"):
        await house.ask(headers={"X-Client-Id": caller})
    house.backend.text = "nothing"
    await house.ask("is it s3cret-42?")
    line = json.loads(house.front.proxy.recorder.counts.close_interval(time.time()))
    assert sorted(line["rows"][0]["unsafe"].values()) == [1, 2]
