"""The scraper beside a real gateway worker: what users were answered is what was ingested, also when it is killed."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web
from sqlmodel import select

from adapters.local.child import ChildSpec
from adapters.local.spawn import Child, Spawner
from engine.gateway.client import GatewayAdmin
from engine.observe.evidence import EmbeddedMetrics
from engine.observe.scraper import Scraper
from state.models import Evidence, SliMinute
from state.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path / "state.db")
    yield opened
    opened.close()


@asynccontextmanager
async def replica(path: Path, status: int) -> AsyncIterator[str]:
    """A model server that is ready and answers every completion with `status`."""

    async def complete(request: web.Request) -> web.Response:
        return web.json_response({"choices": [{"text": "a"}], "usage": {"completion_tokens": 1}}, status=status)

    async def ready(request: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.add_routes([web.get("/ready", ready), web.post("/v1/completions", complete)])
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, str(path)).start()
    try:
        yield f"unix:{path}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def gateway(tmp_path: Path) -> AsyncIterator[tuple[Child, str, Path]]:
    """One worker on a free port."""
    counts = tmp_path / "gateway"
    counts.mkdir()
    listener = socket.create_server(("127.0.0.1", 0))
    payload = {
        "listen_fd": listener.fileno(), "worker": 0, "gateway_dir": str(counts), "max_inflight": 64, "retries": 1,
        "fd_socket": str(tmp_path / "g-1.fd.sock"),
    }  # fmt: skip
    spec = ChildSpec("g-1", "gateway", tmp_path, str(tmp_path / "g-1.sock"), "gateway", payload)
    child = Spawner(tmp_path, tmp_path).spawn(spec, "engine.gateway.worker", pass_fds=(listener.fileno(),))
    try:
        async with GatewayAdmin(spec.socket) as admin:
            deadline = time.monotonic() + 20
            while True:
                try:
                    await admin.handshake()
                    break
                except Exception:
                    if not child.is_alive() or time.monotonic() > deadline:
                        pytest.fail((tmp_path / "g-1.log").read_text())
                    await asyncio.sleep(0.05)
        yield child, f"http://127.0.0.1:{listener.getsockname()[1]}", counts
    finally:
        child.kill()
        await child.wait()
        listener.close()


def table(stable: str, canary: str) -> dict[str, Any]:
    backends = [
        {"track": "stable", "release_id": "charlm-1", "weight": 50, "replicas": [["m-1", stable]]},
        {"track": "canary", "release_id": "charlm-2", "weight": 50, "replicas": [["m-2", canary]]},
    ]
    route = {
        "service": "chat", "env": "production", "target": "local", "rollout_id": "ro-1", "slow_ms": 800, "deadline_s": 5,
        "backends": backends,
    }  # fmt: skip
    return {"revision": 3, "issued_at": time.time(), "default_env": "production", "routes": [route]}


async def test_what_users_were_answered_is_what_the_judge_gets_even_when_the_worker_is_killed(
    store: Store, tmp_path: Path
) -> None:
    answered: dict[tuple[str, int], int] = {}
    async with (
        replica(tmp_path / "m-1.sock", 200) as good,
        replica(tmp_path / "m-2.sock", 500) as bad,
        gateway(tmp_path) as (child, url, counts),
        httpx.AsyncClient(base_url=url, trust_env=False) as users,
        GatewayAdmin(child.spec.socket) as admin,
    ):
        began = time.time()
        await admin.put_table(table(good, bad))
        living = [("g-1", child.spec.socket)]
        engine = Scraper(store, lambda: tuple(living), counts)
        metrics = EmbeddedMetrics(store, engine, time.time)

        async def ask(times: int) -> None:
            for _ in range(times):
                answer = await users.post("/v1/completions", json={"model": "chat", "prompt": "a", "max_tokens": 1})
                key = (answer.headers["x-airboss-track"], answer.status_code)
                answered[key] = answered.get(key, 0) + 1

        async def settled(want: int) -> None:
            """Until every request asked is in evidence; a snapshot closes each second."""
            deadline = time.monotonic() + 10
            while True:
                await engine.tick()
                seen = await metrics.arms("chat", "production", "ro-1", 3, began)
                if sum(i.stable.requests + i.canary.requests for i in seen.intervals) >= want:
                    return
                assert time.monotonic() < deadline, seen
                await asyncio.sleep(0.1)

        await ask(60)
        await settled(60)
        await ask(40)
        await asyncio.sleep(
            1.2
        )  # the open interval closes and is flushed: what a killed worker leaves is whole seconds
        child.kill()
        await child.wait()
        living.clear()
        await settled(100)
        seen = await metrics.arms("chat", "production", "ro-1", 3, began)
        await engine.close()
    stable = sum(i.stable.requests for i in seen.intervals)
    canary = sum(i.canary.requests for i in seen.intervals)
    assert (stable, canary) == (answered[("stable", 200)], answered[("canary", 500)])
    assert sum(i.canary.errors for i in seen.intervals) == canary
    assert sum(i.stable.errors for i in seen.intervals) == 0
    assert seen.gap_s == pytest.approx(0, abs=0.5)
    minutes = store.read_now(lambda s: s.exec(select(SliMinute)).all())
    assert (sum(m.requests for m in minutes), sum(m.errors for m in minutes)) == (100, canary)
    assert engine.recent.rates("chat", "production", time.time()).p95_ms is not None
    assert set(store.read_now(lambda s: s.exec(select(Evidence.table_revision)).all())) == {3}
