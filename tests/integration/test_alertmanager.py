"""A real Alertmanager beside the book of alerts: ours there, theirs here, silences in line, and nothing believed of one that is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from aiohttp import web

from adapters.alertmanager import Alertmanagers, rfc3339
from engine.observe import peers as peers_module
from engine.observe.alerts import AlertBook
from engine.observe.conditions import Firing
from engine.observe.lifecycle import notices
from engine.observe.peers import Peers
from state.server_config import Credentials
from state.store import Store
from state.words import AlertState, Severity, Unreachable
from tests.monitoring_servers import Server, alertmanager, needs_alertmanager

BURN = Firing("ErrorBudgetBurn", Severity.PAGE, "chat burns", "chat", "production", {"severity": "page"})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path / "state.db")
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alertmanager lives by the real clock, so the test's own may not run far ahead of it."""
    monkeypatch.setattr(peers_module, "RESEND_S", 0.3)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = alertmanager(tmp_path_factory.mktemp("am") / "one")
    yield running
    running.stop()


def there(server: Server, **labels: str) -> list[dict[str, object]]:
    found = httpx.get(f"{server.url}/api/v2/alerts", trust_env=False).json()
    return [one for one in found if labels.items() <= one["labels"].items()]


def silences(server: Server) -> list[dict[str, object]]:
    return list(httpx.get(f"{server.url}/api/v2/silences", trust_env=False).json())


def raise_there(server: Server, name: str, *, over: bool = False) -> None:
    now = time.time()
    alert = {
        "labels": {"alertname": name, "severity": "critical", "service": "chat", "env": "production"},
        "annotations": {"summary": f"{name} of chat"},
        "startsAt": rfc3339(now - 90), "endsAt": rfc3339(now if over else now + 600),
    }  # fmt: skip
    assert httpx.post(f"{server.url}/api/v2/alerts", json=[alert], trust_env=False).status_code == 200


class Room:
    """A book and its peers, at a time of the test's own."""

    def __init__(self, store: Store, urls: list[str], workspace: str = "ws") -> None:
        self.now = time.time() - 5
        """Behind Alertmanager's clock: an end in its future would be none yet."""
        self.book = AlertBook(store, clock=lambda: self.now, clear_for_s=0.2)
        self.source = Alertmanagers(urls, timeout_s=2.0, rest_s=0.01)
        self.peers = Peers(store, self.book, self.source, workspace, clock=lambda: self.now)

    async def turn(self, *firing: Firing) -> None:
        await self.both()
        await self.book.apply((*firing, *self.peers.firing()))
        await self.both()

    async def both(self) -> None:
        await self.peers.tell()
        await self.peers.align()


@needs_alertmanager
async def test_our_alerts_stand_there_until_they_end_and_an_ack_is_shown(store: Store, server: Server) -> None:
    room = Room(store, [server.url], "ours")
    await room.turn(BURN)
    (seen,) = there(server, workspace="ours")
    assert seen["labels"] == {
        "alertname": "ErrorBudgetBurn", "severity": "page", "service": "chat", "env": "production", "workspace": "ours",
        "airboss_fingerprint": BURN.fingerprint,
    }  # fmt: skip
    ends_at = str(seen["endsAt"])
    await room.book.ack(room.book.active()[0].id, "user:ann")
    room.now += 0.4
    await room.turn(BURN)
    (seen,) = there(server, workspace="ours")
    assert seen["annotations"]["acked_by"] == "user:ann"  # type: ignore[index]
    assert str(seen["endsAt"]) > ends_at, "it was said again before it ended by itself"
    await room.turn()
    room.now += 0.4
    await room.turn()
    deadline = time.monotonic() + 10
    while there(server, workspace="ours"):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    await room.peers.close()


@needs_alertmanager
async def test_an_engine_that_stops_says_what_was_raised_since_the_last_turn(store: Store, server: Server) -> None:
    room = Room(store, [server.url], "stopping")
    await room.book.apply([BURN])
    await room.peers.close()
    assert [one["labels"]["alertname"] for one in there(server, workspace="stopping")] == ["ErrorBudgetBurn"]  # type: ignore[index]
    room.now += 0.4
    await room.book.apply([])
    await room.peers.close()
    assert not there(server, workspace="stopping"), "the next test finds the server as it was"


@needs_alertmanager
async def test_anothers_alert_is_in_our_book_once_is_not_told_again_and_ends(store: Store, server: Server) -> None:
    room = Room(store, [server.url])
    raise_there(server, "KVCacheFull")
    for _ in range(3):
        await room.turn()
    (alert,) = [a for a in room.book.active() if a.name == "KVCacheFull"]
    assert (alert.severity, alert.service, alert.env, alert.summary) == (
        Severity.PAGE, "chat", "production", "KVCacheFull of chat",
    )  # fmt: skip
    assert alert.starts_at == pytest.approx(time.time() - 90, abs=10)
    assert notices([alert], [], room.now) == (), "Alertmanager has told its people already"
    assert (await room.book.ack(alert.id, "user:ann")).acked_by == "user:ann"
    raise_there(server, "KVCacheFull", over=True)
    await room.turn()
    assert [a.name for a in room.book.active()] == ["KVCacheFull"], "a flap is not an end"
    room.now += 0.4
    await room.turn()
    assert room.book.active() == ()
    (kept,) = [a for a in await room.book.history() if a.name == "KVCacheFull"]
    assert kept.state is AlertState.RESOLVED
    await room.peers.close()


@needs_alertmanager
async def test_a_silence_made_here_holds_there_and_ends_where_it_is_ended(store: Store, server: Server) -> None:
    room = Room(store, [server.url])
    raise_there(server, "ReplicaUnhealthy")
    silence = await room.book.silence({"name": "ReplicaUnhealthy"}, "user:ann", "known, being mended", room.now + 600)
    await room.turn()
    await room.turn()
    (made,) = [one for one in silences(server) if one["status"]["state"] == "active"]  # type: ignore[index]
    assert made["createdBy"] == "user:ann" and str(made["comment"]).startswith("known, being mended")
    (quiet,) = there(server, alertname="ReplicaUnhealthy")
    assert quiet["status"]["state"] == "suppressed"  # type: ignore[index]
    await room.source.expire(str(made["id"]))
    await room.turn()
    assert room.book.silences() == (), "ended there, it is ended here"
    again = await room.book.silence({"name": "ReplicaUnhealthy"}, "user:ann", "again", room.now + 600)
    await room.turn()
    await room.book.unsilence(again.id, "user:ann")
    await room.turn()
    states = {one["comment"]: one["status"]["state"] for one in silences(server)}
    assert set(states.values()) == {"expired"}
    assert silence.id != again.id
    raise_there(server, "ReplicaUnhealthy", over=True)
    await room.peers.close()


@needs_alertmanager
async def test_one_of_two_peers_that_is_away_is_named_and_the_other_has_all(
    store: Store, server: Server, tmp_path: Path
) -> None:
    other = alertmanager(tmp_path / "two")
    room = Room(store, [other.url, server.url], "pair")
    await room.turn(BURN)
    assert there(server, workspace="pair") and there(other, workspace="pair")
    other.stop()
    room.now += 0.4
    await room.turn(BURN)
    (fact,) = room.peers.facts()
    assert other.url in fact.name and "ConnectError" in fact.error
    assert there(server, workspace="pair")
    other.start()
    deadline = time.monotonic() + 30
    while room.peers.facts() and time.monotonic() < deadline:
        await room.turn(BURN)
    assert room.peers.facts() == [] and there(other, workspace="pair"), "what it has forgotten is said again"
    other.stop()
    await room.peers.close()


@needs_alertmanager
async def test_silence_of_the_server_is_no_all_clear(store: Store, tmp_path: Path) -> None:
    server = alertmanager(tmp_path / "mortal")
    room = Room(store, [server.url])
    raise_there(server, "Outside")
    await room.turn()
    server.stop()
    room.now += 600
    await room.turn()
    assert [a.name for a in room.book.active()] == ["Outside"]
    after_a_restart = Room(store, [server.url])
    after_a_restart.now = room.now + 600
    await after_a_restart.turn()
    assert [a.name for a in after_a_restart.book.active()] == ["Outside"]
    await room.peers.close()
    await after_a_restart.peers.close()


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, "<html>Sign in</html>", "no JSON"),
        (200, '{"not": "a list"}', "another shape"),
        (401, "", "does not let us in"),
        (500, "boom", "answered 500"),
    ],
)
async def test_an_answer_that_is_none_is_a_sentence(status: int, body: str, said: str) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(
            status=status, text=body, content_type="text/html" if body.startswith("<") else "application/json"
        )

    async with _served(answer) as url:
        source = Alertmanagers([url], timeout_s=2.0)
        with pytest.raises(Unreachable, match=said):
            await source.active()
        await source.close()


async def test_a_server_that_never_answers_holds_nobody_up_and_gets_our_token(tmp_path: Path) -> None:
    seen: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request.headers.get("authorization", ""))
        await asyncio.sleep(30)
        return web.Response()

    async with _served(answer) as url:
        source = Alertmanagers([url], Credentials(token="t0p"), timeout_s=0.3)
        began = time.monotonic()
        with pytest.raises(Unreachable, match=r"no answer within 0\.3 s"):
            await source.active()
        assert time.monotonic() - began < 5
        await source.close()
    assert seen == ["Bearer t0p"] * 2, "asked for once more, and then no more"


def _served(answer):  # type: ignore[no-untyped-def]
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def serving():  # type: ignore[no-untyped-def]
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()

    return serving()
