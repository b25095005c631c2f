"""Hooks: told in order, signed, again after a failure and after a restart, and holding up nobody."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from patience import eventually
from sqlmodel import select

from console.commands import people_tables
from engine.api.views.hooks import delivery_views, hook_views
from engine.observe import sending as sending_of
from engine.people.hooks import outbox, sender, signing
from engine.people.hooks.sender import HookSender
from state import audit
from state.config import parse_config
from state.hook_config import Hook
from state.models import HookDelivery
from state.store import Store
from state.words import ConfigError, OperationFailed

SECRET = "whsec_" + base64.b64encode(b"a key of the receiver").decode()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine an answer may take longer than a hook is given; then it would be told twice."""
    for name in ("WEBHOOK_TIMEOUT_S", "COMMAND_TIMEOUT_S"):
        monkeypatch.setattr(sending_of, name, 120.0)


@dataclass
class Receiver:
    """An HTTP server that keeps what it is told; `answers` are the next status codes, 200 when there are none."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    told: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    @property
    def events(self) -> list[str]:
        return [json.loads(body)["type"] for _, body in self.told]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = made.answers.pop(0) if made.answers else 200
            if status == 200:
                made.told.append(({k.lower(): v for k, v in self.headers.items()}, body))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    made.url = f"http://127.0.0.1:{server.server_address[1]}/hooks/s3cret"
    yield made
    server.shutdown()
    server.server_close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path / "state.db")
    yield opened
    opened.close()


def say(store: Store, *actions: str, ref: str = "env:production") -> None:
    for action in actions:
        store.write_now(lambda s, a=action: audit.append(s, actor="user:ana", action=a, ref=ref, reason="why"))  # type: ignore[misc]


@contextlib.asynccontextmanager
async def sending(store: Store, **hooks: Hook) -> AsyncIterator[HookSender]:
    """A sender at work, whose hooks have their cursors."""
    made = HookSender(store, hooks, "shop")
    await made.tick()
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def states(store: Store) -> list[tuple[str, str]]:
    return store.read_now(lambda s: [(d.event, d.state) for d in s.exec(select(HookDelivery))])


async def test_a_webhook_is_told_in_order_and_its_signature_fits(
    store: Store, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK_KEY", SECRET)
    say(store, "rollout.planned")  # before the hook was there
    async with sending(store, chatops=Hook(url=receiver.url, secret="env:HOOK_KEY")):
        say(store, "rollout.preparing", "note", "rollout.completed", "glass.break")
        await eventually(lambda: len(receiver.told) == 3)
    assert receiver.events == ["rollout.preparing", "rollout.completed", "glass.break"]
    said, body = receiver.told[0]
    signed = f"{said['webhook-id']}.{said['webhook-timestamp']}.".encode() + body
    digest = hmac.new(b"a key of the receiver", signed, hashlib.sha256).digest()
    assert said["webhook-signature"] == "v1," + base64.b64encode(digest).decode()
    assert abs(int(said["webhook-timestamp"]) - time.time()) < 60
    assert json.loads(body)["data"]["actor"] == "user:ana"
    assert len({headers["webhook-id"] for headers, _ in receiver.told}) == 3


def test_a_signature_is_that_of_the_standards_own_example() -> None:
    """From the Standard Webhooks specification's reference libraries."""
    found = signing.headers("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330,
                            b'{"test": 2432232314}')  # fmt: skip
    assert found["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


async def test_a_hook_that_is_down_is_tried_again_later_and_holds_nothing_up(
    store: Store, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "backoff_s", lambda attempts: 0.2)
    down = Hook(url="http://127.0.0.1:9/")
    receiver.answers = [503] * 4  # one whole try, and one more
    async with sending(store, down=down, up=Hook(url=receiver.url)):
        began = time.monotonic()
        say(store, "rollout.planned", "rollout.completed")
        assert time.monotonic() - began < 30
        await eventually(lambda: receiver.events == ["rollout.planned", "rollout.completed"])
        await eventually(lambda: any(v.error for v in store.read_now(lambda s: delivery_views(s, "down"))))
    found = store.read_now(lambda s: delivery_views(s, "down"))
    assert [one.state for one in found] == [outbox.PENDING] * 2
    assert "http://127.0.0.1: " in found[-1].error and found[-1].attempts >= 1


async def test_what_was_not_told_is_told_by_the_next_engine(store: Store, receiver: Receiver) -> None:
    hook = Hook(url=receiver.url)
    async with sending(store, chatops=hook):
        pass
    say(store, "rollout.planned")  # no engine runs
    store.write_now(lambda s: outbox.collect(s, {"chatops": hook}, "shop"))  # one that was killed before it sent
    say(store, "rollout.completed")
    async with sending(store, chatops=hook):
        await eventually(lambda: [s for _, s in states(store)] == [outbox.DONE, outbox.DONE])
    assert receiver.events == ["rollout.planned", "rollout.completed"]


def test_an_outbox_is_bounded_and_what_gave_way_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "MOST_PENDING", 3)
    hooks = {"chatops": Hook(command=("/bin/true",))}
    store.write_now(lambda s: outbox.collect(s, hooks, "shop"))
    say(store, *(f"rollout.s{n}" for n in range(5)))
    assert store.write_now(lambda s: outbox.collect(s, hooks, "shop")) == 5
    assert [s for _, s in states(store)] == [outbox.DROPPED] * 2 + [outbox.PENDING] * 3
    assert "more than 3 waited" in store.read_now(delivery_views)[-1].error


async def test_what_went_out_is_not_sent_again_while_the_store_takes_nothing(
    store: Store, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "AGAIN_S", 0.05)
    full, really = [True] * 5, outbox.settle

    def settle(*given: Any) -> None:
        if full and full.pop():
            raise OperationFailed("the disk is full", hint="make room")
        really(*given)

    monkeypatch.setattr(outbox, "settle", settle)
    async with sending(store, chatops=Hook(url=receiver.url)):
        say(store, "rollout.planned")
        await eventually(lambda: states(store) == [("rollout.planned", outbox.DONE)])
    assert receiver.events == ["rollout.planned"]


def test_a_hook_that_was_away_for_long_is_not_told_old_news(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    hooks = {"chatops": Hook(url="http://127.0.0.1:9/")}
    store.write_now(lambda s: outbox.collect(s, hooks, "shop"))
    say(store, "rollout.planned")
    monkeypatch.setattr(outbox, "GIVE_UP_S", 0.0)
    store.write_now(lambda s: outbox.collect(s, hooks, "shop"))
    assert states(store) == []


@pytest.mark.parametrize("secret", ["", "whsec_"])
async def test_an_empty_secret_signs_nothing(
    store: Store, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    monkeypatch.setenv("HOOK_KEY", secret)
    async with sending(store, chatops=Hook(url=receiver.url, secret="env:HOOK_KEY")):
        say(store, "rollout.planned")
        await eventually(lambda: any(v.error for v in store.read_now(delivery_views)))
    assert receiver.told == [] and "env:HOOK_KEY is empty" in store.read_now(delivery_views)[0].error


def test_a_delivery_nobody_takes_for_a_day_is_given_up(store: Store) -> None:
    number = store.write_now(lambda s: outbox.add(s, "chatops", "rollout.planned", "rollout:ro-1", {}, time.time()))
    now = time.time()
    store.write_now(lambda s: outbox.settle(s, number, "503", now))
    assert store.read_now(delivery_views)[0].next_at == pytest.approx(now + 5)
    store.write_now(lambda s: outbox.settle(s, number, "503", now + outbox.GIVE_UP_S + 1))
    assert states(store)[0][1] == outbox.FAILED
    assert [outbox.backoff_s(n) for n in (1, 2, 3, 20)] == [5.0, 10.0, 20.0, 3600.0]


@pytest.mark.parametrize(
    ("hook", "event", "env", "is_told"),
    [
        (Hook(command=("x",)), "rollout.paused", "dev", True),
        (Hook(command=("x",)), "note", "dev", False),
        (Hook(command=("x",), events=("*",)), "note", "", True),
        (Hook(command=("x",), environments=("production",)), "rollout.paused", "dev", False),
        (Hook(command=("x",), environments=("production",)), "rollout.paused", "production", True),
    ],
)
def test_a_hook_is_told_of_what_it_asks_for(hook: Hook, event: str, env: str, is_told: bool) -> None:
    assert outbox.wants(hook, event, env) == is_told


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ('url = "https://x"\ncommand = ["x"]', "either a url or a command"),
        ("events = ['*']", "either a url or a command"),
        ('url = "ftp://x"', "an http:// or https:// address"),
        ('url = "https://x"\nsecret = "hunter2"', "a secret must not stand in the file"),
        ('command = ["x"]\nsecret = "env:X"', "signs webhooks"),
        ('command = ["x"]\nenvironments = ["prod"]', r"no \[environment\.prod\]"),
    ],
)
def test_a_hook_that_cannot_be_meant_is_refused(toml: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_config(f"[environment.production]\n[hook.chatops]\n{toml}\n", Path("airboss.toml"))


async def test_a_command_is_told_and_tested_through_the_door(
    office: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "told"
    code = (
        f"import os, sys; open({str(out)!r}, 'a').write(os.environ['AIRBOSS_EVENT'] + ' ' + sys.stdin.read() + chr(10))"
    )
    hooks = {
        "ops": Hook(command=(sys.executable, "-c", code), environments=("production",)),
        "broken": Hook(
            command=(sys.executable, "-c", "raise SystemExit('no such room')"), environments=("production",)
        ),
    }
    for name, hook in hooks.items():
        monkeypatch.setitem(office.config.hook, name, hook)
    async with sending(office.store, **hooks):
        done = await office.ask("olga", "hook.test", "hook/ops")
        assert done.message.startswith("ops took msg_")
        with pytest.raises(OperationFailed, match="no such room"):
            await office.ask("olga", "hook.test", "hook/broken")
        name = await office.deploy()
        await eventually(lambda: "rollout.awaiting_approval" in out.read_text())
    told = [line.partition(" ") for line in out.read_text().splitlines()]
    events = {event: json.loads(body) for event, _, body in told}
    assert events["rollout.planned"]["data"]["rollout"]["id"] == name
    views = office.store.read_now(lambda s: hook_views(s, office.config))
    shown = people_tables.hooks([v.model_dump() for v in views])
    assert [item["leads_to"] for item in shown.items] == [f"command {Path(sys.executable).name}"] * 2
    assert views[0].told_at is not None and views[1].failed == 1
