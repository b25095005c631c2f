"""What goes wrong behind the gateway, each fault on a real socket: what the client gets, and what the replica notices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest
from gateway_deck import Behave, Deck, Raw, ask, babbles, hangs, read_until_cut, says, stops_sending, streams, until

ROUTING = {
    "breaker": {"consecutive_breaks": 2, "ejection_s": 60.0, "ejection_max_s": 60.0},
    "retry": {"answer_timeout_s": 0.2, "minimum": 100},
}


class Faulty:
    """A worker before s1, which fails as told, and s2, which does not."""

    def __init__(self, deck: Deck) -> None:
        self.deck = deck
        self.bad = Raw(deck.sock("s1"), says("well"))
        self.good = Raw(deck.sock("s2"), says("well"))

    async def serve(self, *names: str, **over: Any) -> None:
        for name, raw in (("s1", self.bad), ("s2", self.good)):
            if name in names:
                await raw.start()
        self.deck.worker("w0")
        await self.deck.is_up("w0")
        await self.deck.put(["w0"], self.deck.table(1, None, stable=names, **{"routing": ROUTING, **over}))

    async def is_left_out(self) -> bool:
        async with self.deck.admin("w0") as admin:
            (seen,) = [replica for replica in await admin.health() if replica["spawn_id"] == "s1"]
        return bool(seen["circuit_open"]) and not seen["takes_requests"]


@pytest.fixture
async def faulty(deck: Deck) -> AsyncIterator[Faulty]:
    async with AsyncExitStack() as stack:
        made = Faulty(deck)
        stack.push_async_callback(made.bad.close)
        stack.push_async_callback(made.good.close)
        yield made


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


@pytest.mark.parametrize("behave", [hangs, babbles, stops_sending], ids=["stuck", "garbage", "half-closed"])
async def test_a_replica_that_takes_requests_and_answers_none_costs_nobody_and_is_left_out_at_last(
    faulty: Faulty, session: aiohttp.ClientSession, behave: Behave
) -> None:
    faulty.bad.behave = behave
    await faulty.serve("s1", "s2")

    async def is_left_out() -> bool:
        assert (await ask(session, faulty.deck.url))[:2] == (200, "s2")
        return await faulty.is_left_out()

    await until(is_left_out, 8)
    asked = len(faulty.bad.asked)
    assert asked == 2
    assert {(await ask(session, faulty.deck.url))[1] for _ in range(6)} == {"s2"}
    assert len(faulty.bad.asked) == asked


async def test_a_connection_that_went_silent_while_idle_is_given_up_and_the_request_made_elsewhere(
    faulty: Faulty, session: aiohttp.ClientSession
) -> None:
    await faulty.serve("s1", "s2")

    async def both_asked() -> bool:
        await ask(session, faulty.deck.url)
        return bool(faulty.bad.asked and faulty.good.asked)

    await until(both_asked)
    faulty.bad.behave = hangs  # the idle connection stays open, and nobody is behind it any more
    asked = len(faulty.bad.asked)

    async def met_it() -> bool:
        assert (await ask(session, faulty.deck.url))[:2] == (200, "s2") or len(faulty.bad.asked) == asked
        return len(faulty.bad.asked) > asked

    await until(met_it)


async def test_with_no_other_replica_the_client_is_told_what_happened(
    faulty: Faulty, session: aiohttp.ClientSession
) -> None:
    await faulty.serve("s1", deadline_s=0.5, routing=None)
    for behave, status in ((hangs, 504), (babbles, 502), (stops_sending, 502)):
        faulty.bad.behave = behave
        assert (await ask(session, faulty.deck.url))[0] == status
        faulty.bad.behave = says("well")
        assert (await ask(session, faulty.deck.url))[:2] == (200, "s1")


async def test_streams_that_die_are_told_and_never_made_again_and_put_the_replica_out(
    faulty: Faulty, session: aiohttp.ClientSession
) -> None:
    faulty.bad.behave = streams(3, then="dies")
    await faulty.serve("s1", "s2")
    broken = 0
    while not await faulty.is_left_out():
        async with session.post(f"{faulty.deck.url}/v1/completions", json={"model": "chat", "stream": True}) as answer:
            if answer.content_type != "text/event-stream":
                continue
            text = await read_until_cut(answer)
        broken += 1
        assert text.count(b'"text"') == 3
        assert b'"code": "stream_broken"' in text
        assert b"[DONE]" not in text
    assert broken == len(faulty.bad.asked) == 2

    async def counted() -> bool:
        return (await faulty.deck.classes(["w0"])).get("stream_broken") == 2

    await until(counted, 5)


async def test_a_client_gone_in_mid_stream_is_known_to_the_replica_before_it_sends_another_piece(
    faulty: Faulty,
) -> None:
    faulty.bad.behave = streams(2, then="waits")
    await faulty.serve("s1")
    async with aiohttp.ClientSession() as leaving:
        answer = await leaving.post(f"{faulty.deck.url}/v1/completions", json={"model": "chat", "stream": True})
        assert b'"text"' in await answer.content.readany()
        assert not faulty.bad.gone.is_set()
    async with asyncio.timeout(5):
        await faulty.bad.gone.wait()

    async def counted() -> bool:
        return await faulty.deck.classes(["w0"]) == {"cancel": 1}

    await until(counted, 5)
    async with faulty.deck.admin("w0") as admin:
        assert [(r["circuit_open"], r["takes_requests"]) for r in await admin.health()] == [(False, True)]
