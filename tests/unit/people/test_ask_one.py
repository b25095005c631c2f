"""One request to a track, a release or a replica: who is meant, who may ask, what a refusal says."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from adapters.ports import ReplicaStatus
from engine.access import Actor
from engine.api.views.asking import AskRequest, ask_one
from state.words import Conflict, Denied, OperationFailed, Unreachable, UsageError

OLGA, VERA = Actor(70000, "olga", frozenset()), Actor(70006, "vera", frozenset())


@pytest.fixture
def socket() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="ab-") as directory:
        yield str(Path(directory) / "r.sock")


def replica(name: str, release: str, socket: str, **more: Any) -> ReplicaStatus:
    given = {"is_ready": True, "is_alive": True, "restarts": 0} | more
    return ReplicaStatus(name, "chat", "production", release, "d", 0, f"unix:{socket}", 42, **given)


async def ask(office: Any, who: Actor = OLGA, **whom: str) -> dict[str, Any]:
    wish = AskRequest(service="chat", env="production", prompt="Hello", **whom)
    return await ask_one(office.desk, wish, who)


async def serving(socket: str, status: int, body: dict[str, Any]) -> asyncio.Server:
    """A replica that answers everything with `body`."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        text = json.dumps(body).encode()
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(text)}\r\nconnection: close\r\n\r\n"
        writer.write(head.encode() + text)
        await writer.drain()
        writer.close()

    return await asyncio.start_unix_server(answer, socket)


@pytest.mark.parametrize("whom", [{"track": "stable"}, {"release": "charlm-1"}, {"replica": "m-1"}])
async def test_the_one_that_is_meant_answers_and_is_named(office: Any, socket: str, whom: dict[str, str]) -> None:
    there = [replica("m-0", "charlm-2", "/nobody"), replica("m-1", "charlm-1", socket)]
    office.desk.controller.world.runtime = SimpleNamespace(replicas=lambda *_: there)
    async with await serving(socket, 200, {"choices": [{"text": " there"}], "usage": {"total_tokens": 2}}):
        found = await ask(office, **whom)
    assert (found["text"], found["replica"], found["release"]) == (" there", "m-1", "charlm-1")
    assert found["track"] == whom.get("track", "")


async def test_a_refusal_is_told_in_the_replicas_own_words(office: Any, socket: str) -> None:
    office.desk.controller.world.runtime = SimpleNamespace(replicas=lambda *_: [replica("m-1", "charlm-1", socket)])
    async with await serving(socket, 400, {"error": {"message": "the context is 8 tokens"}}):
        with pytest.raises(OperationFailed, match=r"m-1 \(charlm-1\) answered 400: the context is 8 tokens"):
            await ask(office, track="stable")


async def test_who_is_not_there_is_said_with_who_is(office: Any) -> None:
    there = [replica("m-1", "charlm-1", "/nobody", is_ready=False), replica("m-2", "charlm-9", "/nobody")]
    office.desk.controller.world.runtime = SimpleNamespace(replicas=lambda *_: there)
    with pytest.raises(Conflict, match="no track canary") as refused:
        await ask(office, track="canary")
    assert "stable" in refused.value.hint
    with pytest.raises(Conflict, match="no replica of charlm-1 answers") as refused:
        await ask(office, track="stable")
    assert "charlm-9" in refused.value.hint
    with pytest.raises(Unreachable, match="m-2"):
        await ask(office, replica="m-2")


async def test_one_is_named_and_one_who_may_only_look_may_not_ask(office: Any) -> None:
    with pytest.raises(UsageError, match="one of"):
        await ask(office)
    with pytest.raises(UsageError, match="one of"):
        await ask(office, track="stable", replica="m-1")
    with pytest.raises(Denied):
        await ask(office, VERA, track="stable")
