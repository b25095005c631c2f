"""Two consoles pressing at once, through the real API on its socket: exactly one step, and the second is told by whom."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import socket
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import uvicorn

from engine.api.app import make_app
from engine.api.peer import PeerProtocol
from engine.api.reader import Reader
from state.words import Conflict, RolloutState

ROUNDS = 12
ME = pwd.getpwuid(os.getuid()).pw_name


class _Reader:
    """What the door's route needs of the reader."""

    def __init__(self, office: Any) -> None:
        self.store, self.config = office.store, office.config


@contextlib.asynccontextmanager
async def served(office: Any) -> AsyncIterator[str]:
    """The API on a Unix socket, as the engine serves it."""
    with tempfile.TemporaryDirectory(prefix="ab-", dir="/tmp") as made, socket.socket(socket.AF_UNIX) as listener:
        path = str(Path(made) / "engine.sock")
        listener.bind(path)
        listener.listen()
        app = make_app(cast(Reader, _Reader(office)), office.desk)
        server = uvicorn.Server(
            uvicorn.Config(app, http=PeerProtocol, log_config=None, access_log=False, lifespan="off")
        )
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield path
        finally:
            server.should_exit = True
            await task


def console(path: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=path), base_url="http://engine", timeout=60)


async def press(client: httpx.AsyncClient, name: str, verb: str, revision: int | None) -> httpx.Response:
    body = {"verb": verb, "ref": f"rollout/{name}", "yes": True, "expect_revision": revision, "confirm_name": "chat",
            "args": {"weight": 40} if verb.endswith("weight") else {}}  # fmt: skip
    return await client.post("/v1/verbs", json=body)


@pytest.mark.parametrize("verb", ["rollout.promote", "rollout.weight"])
async def test_two_keys_on_the_same_screen_make_one_step(
    office: Any, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    roles = office.config.roles["production"]
    monkeypatch.setitem(office.config.roles, "production", roles.model_copy(update={"operator": ("olga", ME)}))
    name = await office.deploy()
    policy = office.row(name).policy
    async with served(office) as path, console(path) as one, console(path) as other:
        for _ in range(ROUNDS):
            office.change(name, state=RolloutState.STEP_BAKING.value, step=0, policy=policy)
            revision = office.row(name).revision
            answers = await asyncio.gather(press(one, name, verb, revision), press(other, name, verb, revision))
            assert sorted(a.status_code for a in answers) == [200, 409]
            refused = next(a for a in answers if a.status_code == 409).json()["error"]
            assert refused["exit"] == 6
            assert f"user:{ME} was first, 0 s ago" in refused["message"]
            row = office.row(name)
            assert (row.revision, row.state) == (revision + 1, RolloutState.STEP_APPLYING)
            assert row.step == (1 if verb == "rollout.promote" else 0)


async def test_two_people_are_told_apart_and_the_second_reads_the_firsts_name(office: Any) -> None:
    name = await office.deploy()
    firsts = set()
    for turn in range(10):
        office.change(name, state=RolloutState.STEP_BAKING.value, step=0)
        people = ("olga", "lea") if turn % 2 else ("lea", "olga")
        revision = office.row(name).revision
        results = await asyncio.gather(
            *(office.ask(who, "rollout.promote", f"rollout/{name}", expect_revision=revision) for who in people),
            return_exceptions=True,
        )
        (refused,) = [r for r in results if isinstance(r, Conflict)]
        first = people[next(i for i, r in enumerate(results) if not isinstance(r, Exception))]
        assert f"user:{first} was first" in refused.message
        assert office.row(name).step == 1
        firsts.add(first)
    assert firsts == {"olga", "lea"}


async def test_a_key_on_a_stale_screen_is_refused_whatever_it_means(office: Any) -> None:
    name = await office.deploy()
    office.change(name, state=RolloutState.STEP_BAKING.value, step=0)
    shown = office.row(name).revision
    await office.ask("olga", "rollout.pause", f"rollout/{name}", reason="looking")
    for verb in ("promote", "resume", "abort", "pause"):
        with pytest.raises(Conflict, match=r"has moved since it was shown .*user:olga was first.*paused by") as moved:
            await office.ask("lea", f"rollout.{verb}", f"rollout/{name}", expect_revision=shown)
        assert moved.value.code == "revision_moved"
    assert office.row(name).state == RolloutState.PAUSED


async def test_without_a_revision_the_second_press_finds_it_moving_and_reads_by_whom(office: Any) -> None:
    name = await office.deploy()
    office.change(name, state=RolloutState.STEP_BAKING.value, step=0)
    await office.ask("olga", "rollout.promote", f"rollout/{name}")
    with pytest.raises(Conflict, match="its weight is being set; user:olga was first, 0 s ago"):
        await office.ask("lea", "rollout.promote", f"rollout/{name}")
