"""The observer as the engine runs it: a gateway dies, the prober sees it, the budget falls, somebody is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from patience import eventually
from sqlmodel import select

from engine.observe.conditions import AdapterFact
from engine.observe.observer import Intervals, Observer, Outside
from engine.observe.prober import Prober, ProbeTarget
from state.alerts_config import AlertsConfig
from state.config import Config, Environment, Service, Slo
from state.models import SliMinute, TrackState
from state.store import Store

FAST = Intervals(scrape_s=0.05, probe_s=0.02, slo_s=0.05, alerts_s=0.05, notify_s=0.05, heartbeat_s=0.1, prune_s=0.2)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path / "state.db")
    yield opened
    opened.close()


class FakeGateway:
    """The public address: answers completions, can be made to fail, can die and come back on its port."""

    def __init__(self) -> None:
        self.port = 0
        self.status = 200
        self.delay_s = 0.0
        self.seen: list[tuple[str, str, dict[str, Any]]] = []
        self.notices: list[tuple[str, str]] = []
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def up(self) -> None:
        app = web.Application()
        app.router.add_post("/{env}/{service}/v1/completions", self._complete)
        app.router.add_post("/hook", self._hook)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]

    async def down(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _complete(self, request: web.Request) -> web.Response:
        self.seen.append((request.path, request.headers.get("x-airboss-probe", ""), await request.json()))
        await asyncio.sleep(self.delay_s)
        return web.json_response(
            {"choices": [{"text": "a"}]} if self.status == 200 else {"error": {}}, status=self.status
        )

    async def _hook(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.notices.append((body["status"], body["commonLabels"]["alertname"]))
        return web.Response()


@pytest.fixture
async def gateway() -> AsyncIterator[FakeGateway]:
    found = FakeGateway()
    await found.up()
    yield found
    await found.down()


def minutes(store: Store) -> tuple[int, int]:
    rows = store.read_now(lambda s: list(s.exec(select(SliMinute.probes, SliMinute.probe_errors))))
    return sum(r[0] for r in rows), sum(r[1] for r in rows)


async def one_probe(store: Store, url: str, deadline_s: float = 30.0) -> Prober:
    async def targets() -> list[ProbeTarget]:
        return [ProbeTarget("chat", "production", 60.0, deadline_s)]

    prober = Prober(store, lambda: url, targets)
    await prober.tick()
    await prober.drain()
    await prober.tick()
    await prober.close()
    return prober


async def test_a_probe_is_one_token_through_the_public_address_and_says_what_it_is(
    store: Store, gateway: FakeGateway
) -> None:
    prober = await one_probe(store, gateway.url)
    ((path, header, body),) = gateway.seen
    assert path == "/production/chat/v1/completions"
    assert header == "1"
    assert body["max_tokens"] == 1
    assert prober.last[("chat", "production")].is_ok
    assert minutes(store) == (1, 0)


@pytest.mark.parametrize(
    ("status", "delay_s", "port", "kind"),
    [(503, 0.0, None, "bad"), (404, 0.0, None, "bad"), (200, 5.0, None, "deadline"), (200, 0.0, 9, "unreachable")],
)
async def test_a_probe_that_fails_says_how(
    store: Store, gateway: FakeGateway, status: int, delay_s: float, port: int | None, kind: str
) -> None:
    gateway.status, gateway.delay_s = status, delay_s
    url = gateway.url if port is None else f"http://127.0.0.1:{port}"
    # A short deadline where it is what ends the probe, and nowhere else: a busy machine needs longer to be refused.
    prober = await one_probe(store, url, **({"deadline_s": 0.3} if kind == "deadline" else {}))
    assert prober.last[("chat", "production")].kind == kind
    assert minutes(store) == (1, 1)


async def no_counts(socket: str, after: int) -> bytes:
    return b'{"boot_id": "g-1", "snapshots": []}'


def observer(
    store: Store, gateway: FakeGateway, tmp_path: Path, hook: FakeGateway | None = None, **more: Any
) -> Observer:
    config = Config(
        service={"chat": Service(slo=Slo(availability=99.0), prober_interval=0.05, deadline=1.0)},
        environment={"production": Environment()},
        alerts=AlertsConfig(webhook=f"{(hook or gateway).url}/hook"),
    )
    more.setdefault("workers", lambda: (("g-1", "/nowhere"),))
    return Observer(
        store, config, gateway_dir=tmp_path, public_url=lambda: gateway.url, intervals=FAST, clear_for_s=0.3,
        fetch=no_counts, **more,
    )  # fmt: skip


@asynccontextmanager
async def running(one: Observer) -> AsyncIterator[Observer]:
    task = asyncio.create_task(one.run())
    try:
        yield one
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_nothing_is_probed_where_nobody_is_served(store: Store, gateway: FakeGateway, tmp_path: Path) -> None:
    async with running(observer(store, gateway, tmp_path)) as one:
        await eventually(
            lambda: all(loop.turned_at for loop in one.status().loops) and bool(one.status().loops), "every loop turned"
        )
        assert gateway.seen == []
        assert one.alerts() == ()
        assert one.slos() == ()


async def test_a_dead_gateway_costs_budget_pages_somebody_and_its_return_is_told(
    store: Store, gateway: FakeGateway, tmp_path: Path
) -> None:
    live = TrackState(
        service="chat",
        env="production",
        target="local",
        track="stable",
        release_id="charlm-1",
        weight=100,
        since=time.time(),
    )
    await store.write(lambda s: s.add(live))
    hook, gateway_port = FakeGateway(), gateway.port
    await hook.up()
    async with running(observer(store, gateway, tmp_path, hook)) as one:
        await eventually(lambda: minutes(store)[0] >= 5, "five probes")
        await eventually(lambda: one.slo_status("chat", "production") is not None, "a service level")
        before = one.slo_status("chat", "production")
        assert before is not None
        assert before.budget_left == 1.0
        assert minutes(store)[1] == 0
        await gateway.down()
        await eventually(lambda: [a.name for a in one.alerts()] == ["GatewayDown"], "the page")
        await eventually(lambda: ("firing", "GatewayDown") in hook.notices, "the webhook")
        await eventually(lambda: (one.slo_status("chat", "production") or before).budget_left < 1.0, "the budget falls")  # type: ignore[operator]
        gateway.port = gateway_port
        await gateway.up()
        await eventually(lambda: one.alerts() == (), "the end of it")
        await eventually(lambda: ("resolved", "GatewayDown") in hook.notices, "the webhook of the end")
    assert hook.notices == [("firing", "GatewayDown"), ("resolved", "GatewayDown")]
    await hook.down()


async def test_a_loop_that_meets_trouble_goes_on_and_says_so(
    store: Store, gateway: FakeGateway, tmp_path: Path
) -> None:
    is_broken = [True]

    def workers() -> tuple[tuple[str, str], ...]:
        if is_broken[0]:
            raise OSError("the socket directory is gone")
        return ()

    one = observer(
        store, gateway, tmp_path, workers=workers, outside=lambda: Outside(adapters=(AdapterFact("registry", ""),))
    )
    async with running(one):
        await eventually(
            lambda: {l.name: l.failures_in_row for l in one.status().loops}.get("scrape", 0) >= 3, "three failures"
        )
        assert any(a.error.startswith("OSError") for a in (await one.facts()).adapters)
        is_broken[0] = False
        await eventually(lambda: {l.name: l.failures_in_row for l in one.status().loops}["scrape"] == 0, "it goes on")
        assert all(not a.error for a in (await one.facts()).adapters)
