"""An answer on its way through checks: whose fault a deadline is, what has no body, what is too large to be checked."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

import aiohttp
from aiohttp import web

EVENT = b'data: {"choices": [{"index": 0, "text": "%s"}]}\n\n'


def checked(**more: Any) -> dict[str, Any]:
    """What the table says of a route with one check, of its answers unless `more` says otherwise."""
    rule = {"name": "secret", "kind": "regex", "on": "answer", "action": "block", "patterns": ["s3cret"], **more}
    return {"safety": {"rules": [rule], "window_chars": 20}}


async def test_a_replica_that_stalls_while_its_first_words_are_held_back_is_the_one_to_blame(house: Any) -> None:
    async def stall(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(EVENT % b"held")
        await asyncio.sleep(60)
        return response

    house.backend.answer = stall
    await house.start(access=checked(), deadline_s=0.3)
    async with house.session.post("/v1/completions", json={"prompt": "x", "stream": True}) as answer:
        with suppress(aiohttp.ClientError):  # how it breaks off is the client library's affair
            await answer.read()
    assert [line["class"] for line in house.ledger()] == ["deadline"]


async def test_a_deadline_includes_the_time_that_the_checks_of_the_prompt_took(house: Any) -> None:
    async def late(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.2)  # within a deadline that begins anew, beyond one that the check has used up
        return web.json_response({})

    house.backend.answer = late
    command = ["/bin/sh", "-c", "sleep 0.5; echo '{\"ok\": true}'"]
    await house.start(access=checked(kind="command", on="prompt", command=command, timeout_s=10.0), deadline_s=0.4)
    status, body, _ = await house.ask()
    assert (status, body["error"]["code"]) == (504, "deadline")


async def test_an_answer_without_a_body_leaves_the_connection_in_step(house: Any) -> None:
    async def nothing(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        return web.Response(status=204) if body["prompt"] == "none" else web.json_response({"n": 1})

    house.backend.answer = nothing
    await house.start()
    asked = [json.dumps({"prompt": prompt}).encode() for prompt in ("none", "one")]
    head = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n%s\r\n%s"
    said = await house.wire(
        head % (len(asked[0]), b"", asked[0]) + head % (len(asked[1]), b"Connection: close\r\n", asked[1])
    )
    first, _, rest = said.partition(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 204 ") and b"chunked" not in first and b"content-length" not in first.lower()
    assert rest.startswith(b"HTTP/1.1 200 ")


async def test_an_answer_too_large_to_be_checked_is_refused_and_not_held(house: Any) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        while True:
            await response.write(b" " * (1 << 20))

    house.backend.answer = endless
    await house.start(access=checked())
    status, body, _ = await house.ask()
    assert (status, body["error"]["code"]) == (400, "content_policy_violation")
    assert "too" in body["error"]["message"] or "larger" in body["error"]["message"]


async def test_events_without_a_space_come_to_a_proper_end_too(house: Any) -> None:
    async def terse(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'data:{"choices": [{"index": 0, "text": "a"}]}\n\ndata:[DONE]\n\n')
        return response

    house.backend.answer = terse
    await house.start()
    async with house.session.post("/v1/completions", json={"prompt": "x", "stream": True}) as answer:
        await answer.read()
    (line,) = house.ledger()
    assert (line["class"], line["tokens"]) == ("ok", 1)


async def test_what_was_redacted_is_not_spelled_out_beside_its_text(house: Any) -> None:
    async def spelled(request: web.Request) -> web.StreamResponse:
        choice = {"index": 0, "text": "a s3cret", "logprobs": {"tokens": ["a", " s3c", "ret"]}}
        if not (await request.json()).get("stream"):
            return web.json_response({"choices": [choice]})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(f"data: {json.dumps({'choices': [choice]})}\n\ndata: [DONE]\n\n".encode())
        return response

    house.backend.answer = spelled
    await house.start(access=checked(action="redact"))
    _, body, _ = await house.ask()
    assert body["choices"][0] == {"index": 0, "text": "a [redacted]", "logprobs": None}
    _, events, _ = await house.stream()
    assert json.loads(events[0])["choices"][0] == {"index": 0, "text": "a [redacted]", "logprobs": None}


async def test_a_format_that_cannot_be_read_does_not_pass_a_check(house: Any) -> None:
    await house.start(access=checked(on="prompt"))
    status, body, _ = await house.ask(path="/v1/responses", input=[{"role": "user", "content": "a s3cret"}])
    assert (status, body["error"]["code"]) == (400, "content_policy_violation")
    assert not house.backend.seen
    assert (await house.ask(path="/v1/completions?x=1"))[0] == 200
