"""HAProxy driven by the gateway's table: a real one, where it is installed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from gateway_deck import Deck, opened_deck, until
from servers import NO_HAPROXY, lacks_haproxy

from adapters.local.haproxy.config import servers
from adapters.ports import Backend, Route
from engine.gateway.haproxy.counting import outcome_from
from state.config import parse_config
from state.words import AirbossError, BadClass, ConfigError, UsageError

if lacks_haproxy():
    pytest.skip(NO_HAPROXY, allow_module_level=True)

MODULE = "engine.gateway.haproxy.worker"


@pytest.fixture
async def deck() -> AsyncIterator[Deck]:
    async with opened_deck() as made:
        for name in ("s1", "c1"):
            made.backend(name)
        made.worker("w0", module=MODULE)
        await made.backends_up("s1", "c1")
        await made.is_up("w0")
        yield made


async def ask(session: aiohttp.ClientSession, url: str, **body: Any) -> tuple[int, dict[str, str], str]:
    async with session.post(url, json={"model": "chat", "prompt": "x", **body}) as answer:
        return answer.status, {k.lower(): v for k, v in answer.headers.items()}, await answer.text()


async def handshake(deck: Deck) -> dict[str, Any]:
    async with deck.admin("w0") as admin:
        return await admin.handshake()


async def serve(deck: Deck, revision: int, canary: int) -> None:
    await deck.put(["w0"], deck.table(revision, canary, stable=("s1",)))

    async def all_healthy() -> bool:
        async with deck.admin("w0") as admin:
            replicas = await admin.health()
        return len(replicas) == 2 and all(replica["healthy"] for replica in replicas)

    await until(all_healthy)


async def test_weights_change_in_the_running_haproxy_under_load_and_no_request_fails(deck: Deck) -> None:
    await serve(deck, 1, 0)
    pid = (await handshake(deck))["haproxy_pid"]
    seen: list[tuple[int, str]] = []
    stop = asyncio.Event()

    async def client() -> None:
        async with aiohttp.ClientSession() as session:
            while not stop.is_set():
                status, headers, _ = await ask(session, f"{deck.url}/v1/completions")
                seen.append((status, headers.get("x-airboss-track", "")))

    clients = [asyncio.create_task(client()) for _ in range(4)]
    for revision, weight in enumerate((50, 5, 100, 30), 2):
        await deck.put(["w0"], deck.table(revision, weight, stable=("s1",)))
        at = len(seen)
        await until(lambda at=at: _has(seen, at + 60))  # type: ignore[misc]
    stop.set()
    await asyncio.gather(*clients)
    assert {status for status, _ in seen} == {200}
    assert {track for _, track in seen} == {"stable", "canary"}
    assert (await handshake(deck))["haproxy_pid"] == pid

    async def all_counted() -> bool:
        return await deck.total(["w0"], "requests") == len(seen)

    await until(all_counted)
    assert await deck.total(["w0"], "requests", track="canary") == sum(track == "canary" for _, track in seen)
    assert await deck.total(["w0"], "errors") == 0


async def test_a_worker_that_is_late_counts_every_request_when_it_is_back(deck: Deck) -> None:
    await serve(deck, 1, 0)
    worker = (await handshake(deck))["pid"]
    os.kill(worker, signal.SIGSTOP)
    try:
        async with aiohttp.ClientSession() as session:
            answers = [(await ask(session, f"{deck.url}/v1/completions"))[0] for _ in range(200)]
    finally:
        os.kill(worker, signal.SIGCONT)
    assert answers == [200] * 200

    async def all_counted() -> bool:
        return await deck.total(["w0"], "requests") == 200

    await until(all_counted)
    assert (await handshake(deck))["unread_log_lines"] == 0


async def _has(seen: list[Any], number: int) -> bool:
    return len(seen) >= number


async def test_the_measured_share_is_the_set_one(deck: Deck) -> None:
    await serve(deck, 1, 20)
    async with aiohttp.ClientSession() as session:
        answers = [await ask(session, f"{deck.url}/v1/completions") for _ in range(200)]
    share = sum(headers["x-airboss-release"] == "chat-2" for _, headers, _ in answers) / 2
    assert abs(share - 20) <= 1  # round robin by weight: no chance is in it


async def test_a_probe_of_this_host_is_served_and_not_counted(deck: Deck) -> None:
    await serve(deck, 1, 0)
    async with aiohttp.ClientSession(headers={"X-Airboss-Probe": "1"}) as prober, aiohttp.ClientSession() as user:
        for session in (prober, user, prober):
            status, _, text = await ask(session, f"{deck.url}/v1/completions")
            assert status == 200 and "X-Airboss-Probe" not in text

    async def one_is_counted() -> bool:
        return await deck.total(["w0"], "requests") == 1

    await until(one_is_counted)


async def test_one_that_is_killed_comes_back_with_the_weights_meant_now(deck: Deck) -> None:
    await serve(deck, 1, 0)
    await deck.put(["w0"], deck.table(2, 100, stable=("s1",)))
    before = (await handshake(deck))["haproxy_pid"]
    os.kill(before, signal.SIGKILL)

    async def is_back() -> bool:
        facts = await handshake(deck)
        return facts["haproxy_restarts"] == 1 and facts["haproxy_pid"] not in (0, before)

    await until(is_back)
    await until(lambda: _healthy(deck))
    async with aiohttp.ClientSession() as session:
        tracks = {(await ask(session, f"{deck.url}/v1/completions"))[1]["x-airboss-track"] for _ in range(10)}
    assert tracks == {"canary"}


async def test_one_that_is_killed_after_it_refused_a_table_comes_back_with_the_one_before(deck: Deck) -> None:
    await serve(deck, 1, 0)
    table = deck.table(2, 100, stable=("s1",))
    table["routes"][0]["backends"][1]["replicas"] = [["c1", "https://127.0.0.1:1"]]  # HAProxy knows no such address
    with pytest.raises(AirbossError, match="did not start"):
        await deck.put(["w0"], table)
    before = (await handshake(deck))["haproxy_pid"]
    os.kill(before, signal.SIGKILL)

    async def is_back() -> bool:
        return (await handshake(deck))["haproxy_pid"] not in (0, before)

    await until(is_back)
    await until(lambda: _healthy(deck))
    async with aiohttp.ClientSession() as session:
        status, headers, _ = await ask(session, f"{deck.url}/v1/completions")
    assert (status, headers["x-airboss-track"]) == (200, "stable")


async def _healthy(deck: Deck) -> bool:
    async with deck.admin("w0") as admin:
        return all(replica["healthy"] for replica in await admin.health())


async def test_paths_models_and_streams_pass_and_what_is_not_there_is_said(deck: Deck) -> None:
    await serve(deck, 1, 0)
    async with aiohttp.ClientSession() as session:
        status, headers, text = await ask(session, f"{deck.url}/production/chat/v1/completions?a=b")
        assert status == 200 and '"/v1/completions?a=b"' in text and headers["x-request-id"]
        assert (await ask(session, f"{deck.url}/v1/completions", model="other"))[0] == 404
        assert (await ask(session, f"{deck.url}/elsewhere"))[0] == 404
        assert (await session.get(f"{deck.url}/v1/completions")).status == 405
        assert (await session.get(f"{deck.url}/healthz")).status == 200
        status, headers, text = await ask(session, f"{deck.url}/v1/completions", stream=3)
        assert status == 200 and text.endswith("data: [DONE]\n\n")


async def test_new_replicas_take_over_without_a_failed_request_and_a_worker_that_leaves_ends_its_haproxy(
    deck: Deck,
) -> None:
    await serve(deck, 1, 0)
    before = (await handshake(deck))["haproxy_pid"]
    async with aiohttp.ClientSession() as session:
        slow = asyncio.create_task(ask(session, f"{deck.url}/v1/completions", sleep_ms=400))
        await asyncio.sleep(0.1)
        await deck.put(["w0"], deck.table(2, None, stable=("c1",)))
        assert (await slow)[0] == 200
        await until(lambda: _healthy(deck))
        assert '"c1"' in (await ask(session, f"{deck.url}/v1/completions"))[2]
    after = (await handshake(deck))["haproxy_pid"]
    assert after != before
    deck.processes[2].terminate()
    assert await asyncio.to_thread(deck.processes[2].wait, 20) == 0
    assert not Path(f"/proc/{after}").exists()


async def test_what_haproxy_cannot_carry_is_refused_with_the_reason(deck: Deck) -> None:
    table = deck.table(1, 0, stable=("s1",), routing={"sticky": {"cookie": "s"}})
    async with deck.admin("w0") as admin:
        with pytest.raises(UsageError, match="routing rules"):
            await admin.put_table(table)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("[gateway.auth]\nmode = 'keys'", "API keys"),
        ("[gateway.rate]\nkey = { burst = 5 }", "callers by key"),
        ("[service.chat.cache]\nenabled = true", "service.chat.cache"),
        ("[policy.careful]\nsteps = [{ mirror = 5 }, { weight = 100 }]", "no mirror"),
    ],
)
def test_the_file_is_refused_for_what_haproxy_would_have_to_leave_out(more: str, says: str) -> None:
    source = "[gateway]\nengine = 'haproxy'\n[service.chat]\n[environment.production]\npolicy = 'careful'\n" + more
    with pytest.raises(ConfigError, match=says):
        parse_config(source, Path("airboss.toml"))


def test_a_plain_file_may_name_haproxy() -> None:
    parse_config("[gateway]\nengine = 'haproxy'\n[service.chat]\n[environment.production]\n", Path("airboss.toml"))


def test_shares_hold_whatever_the_number_of_replicas() -> None:
    two = (("a", "unix:/a"), ("b", "unix:/b"))
    backends = (Backend("stable", "r1", 90, two), Backend("canary", "r2", 10, (("c", "unix:/c"),)))
    weights = [s.weight for s in servers(Route("chat", "dev", "local", "", backends, 100.0, 10.0))]
    assert abs(100 * weights[2] / sum(weights) - 10) < 0.5


@pytest.mark.parametrize(
    ("status", "ended", "server", "outcome"),
    [
        (200, "--", "s", BadClass.OK),
        (200, "SD", "s", BadClass.STREAM_BROKEN),
        (-1, "CH", "s", BadClass.CLIENT_CANCEL),
        (504, "sH", "s", BadClass.DEADLINE),
        (502, "SH", "s", BadClass.SERVER_ERROR),
        (503, "SC", "<NOSRV>", BadClass.SHED),
        (500, "--", "s", BadClass.SERVER_ERROR),
        (429, "--", "s", BadClass.QUOTA),
    ],
)
def test_how_haproxy_says_a_request_ended_has_its_class(
    status: int, ended: str, server: str, outcome: BadClass
) -> None:
    assert outcome_from(status, ended, server) is outcome
