"""Two consoles pressing at once, through the real API on its socket: exactly one step, and the second is told by whom."""

from __future__ import annotations

import asyncio
import contextlib
import json
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
            "args": {"weight": 20} if verb.endswith("weight") else {}}  # fmt: skip
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


async def test_a_key_on_a_stale_screen_is_refused_unless_it_leads_back(office: Any) -> None:
    name = await office.deploy()
    office.change(name, state=RolloutState.STEP_BAKING.value, step=0)
    shown = office.row(name).revision
    await office.ask("olga", "rollout.pause", f"rollout/{name}", reason="looking")
    for verb in ("promote", "resume", "pause"):
        with pytest.raises(Conflict, match=r"has moved since it was shown .*user:olga was first.*paused by") as moved:
            await office.ask("lea", f"rollout.{verb}", f"rollout/{name}", expect_revision=shown)
        assert moved.value.code == "revision_moved"
    assert office.row(name).state == RolloutState.PAUSED
    await office.ask("lea", "rollout.abort", f"rollout/{name}", expect_revision=shown)
    assert office.row(name).state == RolloutState.ROLLING_BACK


async def test_without_a_revision_the_second_press_finds_it_moving_and_reads_by_whom(office: Any) -> None:
    name = await office.deploy()
    office.change(name, state=RolloutState.STEP_BAKING.value, step=0)
    await office.ask("olga", "rollout.promote", f"rollout/{name}")
    with pytest.raises(Conflict, match="its weight is being set; user:olga was first, 0 s ago"):
        await office.ask("lea", "rollout.promote", f"rollout/{name}")


def press_as(user: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Ask at the socket as another user of this host: a child that has become them. Returns status and answer."""
    entry = pwd.getpwnam(user)
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(entry.pw_gid)
            os.setuid(entry.pw_uid)
            text = json.dumps(body).encode()
            with socket.socket(socket.AF_UNIX) as wire:
                wire.connect(path)
                wire.sendall(b"POST /v1/verbs HTTP/1.1\r\nHost: e\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b"
                             % (len(text), text))  # fmt: skip
                while piece := wire.recv(65536):
                    os.write(theirs, piece)
        finally:
            os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        head, _, answer = pipe.read().partition(b"\r\n\r\n")
    os.waitpid(child, 0)
    return int(head.split()[1]), json.loads(answer)


@pytest.mark.skipif(os.getuid() != 0, reason="only root becomes others")
async def test_who_approves_is_the_kernels_word(office: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    roles = office.config.roles["production"]
    monkeypatch.setitem(
        office.config.roles, "production", roles.model_copy(update={"approver": ("nobody", "daemon", "root")})
    )
    name = await office.deploy()
    ask = {"verb": "rollout.approve", "ref": f"rollout/{name}", "yes": True, "reason": "seen", "actor": "user:ana"}
    async with served(office) as path:
        Path(path).parent.chmod(0o755)
        Path(path).chmod(0o666)
        answers = {}
        for user in ("root", "games", "nobody", "daemon"):
            answers[user] = await asyncio.to_thread(press_as, user, path, ask)
    assert {user: status for user, (status, _) in answers.items()} == {
        "root": 403, "games": 403, "nobody": 200, "daemon": 200,
    }  # fmt: skip
    assert "uid 0" in answers["root"][1]["error"]["message"]
    assert "takes the role approver" in answers["games"][1]["error"]["message"]
    assert [a for a in office.audit() if a[1] == "rollout.approve"] == [
        ("user:nobody", "rollout.approve"), ("user:daemon", "rollout.approve"),
    ]  # fmt: skip
    await office.tick(name)
    assert office.row(name).state == RolloutState.PREPARING
