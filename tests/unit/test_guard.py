"""The guard before an adapter: bounded tries, a server that is down is left alone, and nothing waits for another."""

from __future__ import annotations

import asyncio

import pytest

from adapters.guard import FAILURES_TO_OPEN, Guard
from state.words import OperationFailed, Unreachable


class Server:
    """Answers what `says` says, and counts how often it was asked."""

    def __init__(self) -> None:
        self.says: Exception | None = None
        self.asked = 0

    async def ask(self) -> str:
        self.asked += 1
        if self.says is not None:
            raise self.says
        return "yes"


async def test_one_answer_that_did_not_come_is_asked_for_again_and_nobody_is_told() -> None:
    guard, server = Guard("registry", goes_on="traffic"), Server()
    server.says = Unreachable("gone")

    async def once() -> str:
        try:
            return await server.ask()
        finally:
            server.says = None

    assert await guard.call(once, limit_s=5) == "yes"
    assert server.asked == 2
    assert guard.standing().since is None


async def test_a_server_that_is_down_is_left_alone_and_comes_back_by_itself() -> None:
    now = [1000.0]
    guard, server = Guard("registry", goes_on="traffic", rest_s=0.05, clock=lambda: now[0]), Server()
    server.says = Unreachable("gone")
    for _ in range(FAILURES_TO_OPEN):
        with pytest.raises(Unreachable, match=r"^gone$"):
            await guard.call(server.ask, limit_s=5, tries=1)
        now[0] += 7
    asked = server.asked
    with pytest.raises(Unreachable, match=r"gone \(down since 00:16:40 UTC; it is asked again within"):
        await guard.call(server.ask, limit_s=5, tries=1)
    assert server.asked == asked, "it was left alone"
    standing = guard.standing()
    assert (standing.since, standing.error, standing.goes_on) == (1000.0, "gone", "traffic")
    server.says = None

    async def until_back() -> None:
        while True:
            try:
                await guard.call(server.ask, limit_s=5, tries=1)
            except Unreachable:
                await asyncio.sleep(0.005)
            else:
                return

    async with asyncio.timeout(30):
        await until_back()
    assert (guard.standing().since, server.asked) == (None, asked + 1)


async def test_an_answer_that_says_no_is_neither_tried_again_nor_an_outage() -> None:
    guard, server = Guard("registry", goes_on="traffic"), Server()
    server.says = OperationFailed("no such model", code="not_found")
    for _ in range(FAILURES_TO_OPEN + 2):
        with pytest.raises(OperationFailed, match="no such model"):
            await guard.call(server.ask, limit_s=5)
    assert server.asked == FAILURES_TO_OPEN + 2
    assert guard.standing().since is None


async def test_denied_credentials_are_down_at_once_and_not_tried_again() -> None:
    guard, server = Guard("registry", goes_on="traffic"), Server()
    server.says = OperationFailed("denied", code="auth")
    with pytest.raises(OperationFailed):
        await guard.call(server.ask, limit_s=5)
    assert server.asked == 1
    assert guard.standing().error == "denied"


async def test_a_call_that_hangs_holds_up_no_other_adapter_and_ends_at_its_limit() -> None:
    slow, quick, server = Guard("metrics", goes_on=""), Guard("registry", goes_on=""), Server()
    never = asyncio.Event()
    hanging = asyncio.create_task(slow.call(never.wait, limit_s=0.2))
    await asyncio.sleep(0)
    assert await quick.call(server.ask, limit_s=5) == "yes"
    assert not hanging.done()
    with pytest.raises(Unreachable, match=r"metrics: no answer within 0\.2 s"):
        await hanging
