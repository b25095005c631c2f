"""Alerts in a real store, told to a real webhook and a real command."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from sqlmodel import select

from engine.observe.alerts import AlertBook
from engine.observe.conditions import Firing
from engine.observe.heartbeat import Heartbeat
from engine.observe.notify import Notifier
from engine.observe.sending import Undelivered, run_command
from state import audit
from state.alerts_config import AlertsConfig
from state.models import Alert, Audit
from state.store import Store
from state.words import Conflict, Severity, UsageError

DOWN = Firing("GatewayDown", Severity.PAGE, "the gateway does not answer")
LOOP = Firing("CrashLoop", Severity.PAGE, "charlm-2 does not stay up", "chat", "production", {"release": "charlm-2"})


@dataclass
class Clock:
    """Time that a test moves."""

    now: float = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Receiver:
    """A webhook on a real port."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    got: list[dict[str, Any]] = field(default_factory=list)
    beats: int = 0

    async def hook(self, request: web.Request) -> web.Response:
        self.got.append(await request.json())
        return web.Response(status=self.answers.pop(0) if self.answers else 200)

    async def beat(self, request: web.Request) -> web.Response:
        self.beats += 1
        return web.Response()

    def said(self) -> list[tuple[str, str]]:
        return [(body["status"], body["commonLabels"]["alertname"]) for body in self.got]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    found = Receiver()
    app = web.Application()
    app.router.add_post("/hook/s3cret", found.hook)
    app.router.add_get("/beat", found.beat)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    found.url = f"http://127.0.0.1:{port}"
    yield found
    await runner.cleanup()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path / "state.db")
    yield opened
    opened.close()


def rows(store: Store) -> list[tuple[str, str, float, float | None]]:
    return store.read_now(
        lambda s: [(a.name, a.state, a.starts_at, a.ends_at) for a in s.exec(select(Alert).order_by(Alert.id))]  # type: ignore[arg-type]
    )


async def test_an_alert_keeps_its_whole_history_one_row_an_occurrence(store: Store) -> None:
    clock = Clock()
    book = AlertBook(store, clock=clock, clear_for_s=30)
    begin = clock.now
    for seconds, firing in ((0, [DOWN]), (10, []), (10, [DOWN]), (40, []), (10, []), (60, [DOWN])):
        clock.now += seconds
        await book.apply(firing)
    assert rows(store) == [
        ("GatewayDown", "resolved", begin, begin + 60),
        ("GatewayDown", "active", begin + 130, None),
    ]
    assert [a.name for a in book.active()] == ["GatewayDown"]


async def test_a_restarted_engine_goes_on_with_the_same_occurrence(store: Store) -> None:
    clock = Clock()
    await AlertBook(store, clock=clock).apply([DOWN])
    clock.now += 5
    again = AlertBook(store, clock=clock)
    await again.apply([])
    clock.now += 10
    await again.apply([DOWN])
    assert [name for name, *_ in rows(store)] == ["GatewayDown"]
    clock.now += 31
    await again.apply([])
    assert rows(store)[0][1] == "resolved"


async def test_an_ack_is_signed_and_audited_once(store: Store) -> None:
    clock = Clock()
    book = AlertBook(store, clock=clock)
    await book.apply([LOOP])
    (alert,) = book.active()
    first = await book.ack(alert.id, "user:ann", "mine")
    again = await book.ack(alert.id, "user:bob")
    assert (first.acked_by, again.acked_by, book.active()[0].acked_by) == ("user:ann",) * 3
    entries = store.read_now(lambda s: [(a.actor, a.action, a.ref, a.reason) for a in s.exec(select(Audit))])
    assert entries == [("user:ann", "alert.ack", f"alert:{alert.id}", "mine")]
    assert store.read_now(audit.verify).is_whole
    clock.now += 100
    await book.apply([])
    await book.apply([LOOP])
    clock.now += 100
    await book.apply([])
    with pytest.raises(UsageError):
        await book.ack(99, "user:ann")
    with pytest.raises(Conflict):
        await book.ack((await book.history())[0].id, "user:ann")


async def test_an_alert_is_told_at_its_start_and_its_end_and_each_once(store: Store, receiver: Receiver) -> None:
    clock = Clock()
    book = AlertBook(store, clock=clock, clear_for_s=30)
    notifier = Notifier(book, AlertsConfig(webhook=f"{receiver.url}/hook/s3cret"), workspace="demo", clock=clock)
    await book.apply([DOWN, LOOP])
    for _ in range(3):
        await notifier.tick()
        clock.now += 1
    clock.now += 40
    await book.apply([LOOP])
    clock.now += 1
    await notifier.tick()
    await notifier.tick()
    assert sorted(receiver.said()) == [("firing", "CrashLoop"), ("firing", "GatewayDown"), ("resolved", "GatewayDown")]
    sent = next(body for body in receiver.got if body["commonLabels"]["alertname"] == "CrashLoop")
    assert (
        sent["commonLabels"] | {"service": "chat", "env": "production", "severity": "page", "workspace": "demo"}
        == sent["commonLabels"]
    )
    assert book.active()[0].notified_at is not None
    assert book.active()[0].notify_error == ""


async def test_a_webhook_that_falters_is_retried_and_one_that_fails_is_recorded_and_tried_later(
    store: Store, receiver: Receiver
) -> None:
    clock = Clock()
    book = AlertBook(store, clock=clock)
    notifier = Notifier(book, AlertsConfig(webhook=f"{receiver.url}/hook/s3cret"), workspace="demo", clock=clock)
    receiver.answers = [503]
    await book.apply([DOWN])
    await notifier.tick()
    assert len(receiver.got) == 2
    assert book.active()[0].notified_at == clock.now

    receiver.answers, receiver.got = [400], []
    await book.apply([DOWN, LOOP])
    await notifier.tick()
    refused = next(a for a in book.active() if a.name == "CrashLoop")
    assert len(receiver.got) == 1, "a refusal is not worth repeating at once"
    assert refused.notified_at is None
    assert "answered 400" in refused.notify_error
    assert "s3cret" not in refused.notify_error
    await notifier.tick()
    assert len(receiver.got) == 1
    clock.now += 31
    await notifier.tick()
    told = next(a for a in book.active() if a.name == "CrashLoop")
    assert told.notified_at == clock.now
    assert told.notify_error == ""


async def test_what_was_not_told_before_a_crash_is_told_after_it(store: Store, receiver: Receiver) -> None:
    clock = Clock()
    await AlertBook(store, clock=clock).apply([DOWN])
    book = AlertBook(store, clock=clock)
    notifier = Notifier(book, AlertsConfig(webhook=f"{receiver.url}/hook/s3cret"), workspace="demo", clock=clock)
    await notifier.tick()
    assert receiver.said() == [("firing", "GatewayDown")]


async def test_a_silence_is_audited_holds_its_tongue_and_can_be_lifted(store: Store, receiver: Receiver) -> None:
    clock = Clock()
    book = AlertBook(store, clock=clock)
    notifier = Notifier(book, AlertsConfig(webhook=f"{receiver.url}/hook/s3cret"), workspace="demo", clock=clock)
    silence = await book.silence({"service": "chat"}, "user:ann", "being mended", clock.now + 3_600)
    await book.apply([DOWN, LOOP])
    await notifier.tick()
    assert receiver.said() == [("firing", "GatewayDown")]
    assert [a.name for a in book.active() if book.is_silenced(a)] == ["CrashLoop"]
    await book.unsilence(silence.id, "user:bob", "mended")
    await book.unsilence(silence.id, "user:bob", "mended")
    await notifier.tick()
    assert receiver.said()[1:] == [("firing", "CrashLoop")]
    actions = store.read_now(lambda s: list(s.exec(select(Audit.actor, Audit.action))))
    assert actions == [("user:ann", "alert.silence"), ("user:bob", "alert.unsilence")]
    reopened = AlertBook(store, clock=clock)
    await reopened.apply([DOWN, LOOP])
    assert reopened.silences() == ()


@pytest.mark.parametrize(
    ("matchers", "reason", "after"),
    [({}, "why", 60.0), ({"service": "chat"}, " ", 60.0), ({"service": "chat"}, "why", 0.0)],
)
async def test_a_silence_without_matchers_reason_or_future_is_refused(
    store: Store, matchers: dict[str, str], reason: str, after: float
) -> None:
    clock = Clock()
    with pytest.raises(UsageError):
        await AlertBook(store, clock=clock).silence(matchers, "user:ann", reason, clock.now + after)


def script(tmp_path: Path, body: str) -> tuple[str, ...]:
    path = tmp_path / "hook.py"
    path.write_text(body)
    return (sys.executable, str(path))


BODY = {"status": "firing", "commonLabels": {"alertname": "GatewayDown"}, "alerts": []}


async def test_a_command_hook_gets_the_alert_on_its_stdin_and_no_shell(store: Store, tmp_path: Path) -> None:
    clock = Clock()
    out = tmp_path / "out.json"
    command = script(
        tmp_path,
        "import json, os, sys\n"
        "json.dump({'body': json.load(sys.stdin), 'args': sys.argv[2:], 'status': os.environ['AIRBOSS_STATUS']}, open(sys.argv[1], 'w'))\n",
    )
    book = AlertBook(store, clock=clock)
    notifier = Notifier(book, AlertsConfig(command=(*command, str(out), "$(id)")), workspace="demo", clock=clock)
    await book.apply([LOOP])
    assert await notifier.tick() == 1
    seen = json.loads(out.read_text())
    assert seen["args"] == ["$(id)"]
    assert seen["status"] == "firing"
    assert seen["body"]["alerts"][0]["annotations"]["summary"] == LOOP.summary
    notifier.close()


def test_a_hook_that_fails_says_why_and_one_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    failing = script(tmp_path, "import sys; print('no such pager', file=sys.stderr); sys.exit(3)")
    with pytest.raises(Undelivered, match="exit 3: no such pager"):
        run_command(failing, b"{}", {})
    with pytest.raises(Undelivered, match="No such file"):
        run_command((str(tmp_path / "absent"),), b"{}", {})
    mark = tmp_path / "child.pid"
    hanging = script(
        tmp_path,
        "import subprocess, sys, pathlib, time\n"
        f"child = subprocess.Popen(['sleep', '60'])\npathlib.Path({str(mark)!r}).write_text(str(child.pid))\ntime.sleep(60)\n",
    )
    began = time.monotonic()
    with pytest.raises(Undelivered, match="longer than"):
        run_command(hanging, b"{}", {}, timeout_s=1.0)
    assert time.monotonic() - began < 5
    deadline = time.monotonic() + 5
    while is_running(int(mark.read_text())) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_running(int(mark.read_text()))


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_one_hook_that_works_is_enough_and_the_other_ones_words_are_kept(
    store: Store, receiver: Receiver, tmp_path: Path
) -> None:
    clock = Clock()
    book = AlertBook(store, clock=clock)
    config = AlertsConfig(webhook=f"{receiver.url}/hook/s3cret", command=script(tmp_path, "raise SystemExit(9)"))
    notifier = Notifier(book, config, workspace="demo", clock=clock)
    await book.apply([DOWN])
    assert await notifier.tick() == 1
    (alert,) = book.active()
    assert alert.notified_at == clock.now
    assert "exit 9" in alert.notify_error
    notifier.close()


async def test_a_webhook_may_be_a_reference_and_a_missing_one_is_a_recorded_failure(
    store: Store, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    book = AlertBook(store, clock=clock)
    notifier = Notifier(book, AlertsConfig(webhook="env:AIRBOSS_TEST_HOOK"), workspace="demo", clock=clock)
    await book.apply([DOWN])
    await notifier.tick()
    assert "AIRBOSS_TEST_HOOK" in book.active()[0].notify_error
    monkeypatch.setenv("AIRBOSS_TEST_HOOK", f"{receiver.url}/hook/s3cret")
    clock.now += 31
    await notifier.tick()
    assert receiver.said() == [("firing", "GatewayDown")]


async def test_the_heart_beats_on_time_and_only_while_the_engine_observes(receiver: Receiver) -> None:
    clock, is_well = Clock(), [True]
    heart = Heartbeat(f"{receiver.url}/beat", 60.0, lambda: is_well[0], clock=clock)
    for _ in range(4):
        await heart.tick()
        clock.now += 20
    assert receiver.beats == 2
    is_well[0] = False
    clock.now += 60
    assert "withheld" in (await heart.tick()).error
    assert receiver.beats == 2
    is_well[0] = True
    assert (await heart.tick()).error == ""
    assert receiver.beats == 3
