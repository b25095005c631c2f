"""The autoscaler on real replica processes, a real store and the real look at the world; only its clock is virtual."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from bundles import seal
from sqlmodel import select

from adapters.local.machine import available_bytes, need_of, room_for
from adapters.local.places import Backoff
from adapters.local.runtime import LocalRuntime
from adapters.local.spawn import Spawner
from adapters.local.supervisor import Supervisor
from adapters.ports import Observed, Route
from engine.api.views.capacity import capacity_views
from engine.autoscaling.scaler import Scaler
from engine.rollouts.back.keeping import PlanKeeper
from engine.rollouts.world import World
from state.config import Config, parse_config
from state.models import Audit, Lease, Release, Rollout, TrackState
from state.store import Store

FOREIGN = Path(__file__).with_name("foreign_server.py")


class NoTraffic:
    """A router at the port: nothing is routed in these tests."""

    async def apply(self, route: Route) -> int:
        return 1

    async def observe(self, service: str, env: str) -> Observed:
        return Observed({})


@dataclass
class Place:
    """A workspace's engine parts, by hand."""

    store: Store
    config: Config
    runtime: LocalRuntime
    world: World
    scaler: Scaler
    load: Path
    now: list[float]
    rooms: list[int | None]
    said: list[str] = field(default_factory=list)

    async def look(self, seconds: float) -> None:
        """So much virtual time, a look every two seconds of it."""
        for _ in range(int(seconds / 2)):
            self.now[0] += 2
            await self.scaler.tick()

    async def until(self, ready: int) -> None:
        """The world has what is wanted, and so many replicas are ready."""
        deadline = time.monotonic() + 120
        while True:
            await self.world.retire()
            there = self.runtime.replicas("chat", "dev")
            if len(there) == ready and all(r.is_ready for r in there):
                return
            assert time.monotonic() < deadline, there
            await asyncio.sleep(0.02)

    async def audits(self) -> list[tuple[str, dict[str, object]]]:
        query = select(Audit).where(Audit.action == "service.autoscale")
        return await self.store.read(lambda s: [(row.reason, dict(row.detail)) for row in s.exec(query)])


def config(load: Path) -> Config:
    """A service whose replicas say that they are as busy as the file `load` tells them to."""
    command = [sys.executable, str(FOREIGN), "--port", "{port}", "--load", str(load)]
    return parse_config(
        "[service.chat.autoscale]\nmin = 1\nmax = 2\nup_window = 10\ndown_window = 30\n"
        "[service.chat.serving]\nbackend = 'command'\nmetrics_profile = 'llamacpp'\nmax_inflight = 10\n"
        f"drain_accept_s = 0\nstop_grace_s = 3\ncommand = {json.dumps(command)}\n[environment.dev]\nprotected = false\n",
        Path("airboss.toml"),
    )


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    bundle, load = tmp_path / "bundle", tmp_path / "load"
    bundle.mkdir()
    (bundle / "weights.gguf").write_bytes(b"GGUF")
    digest = seal(bundle, "chat-1")
    load.write_text("0")
    (tmp_path / "run").mkdir()
    settings, store = config(load), Store.open(tmp_path / "airboss.db")
    with tempfile.TemporaryDirectory(prefix="ab-", dir="/tmp") as sockets:
        supervisor = Supervisor(
            Spawner(tmp_path / "run", tmp_path / "logs"), store, Path(sockets), Backoff(), lambda owner: None
        )
        runtime = LocalRuntime(supervisor, threads=1, crash_loop_after=4)
        plans = PlanKeeper(store, settings, tmp_path, runtime.replicas, admin_sockets=list)
        world = World(store, runtime, NoTraffic(), settings, plans)
        now: list[float] = [1000.0]
        rooms: list[int | None] = [8]
        said: list[str] = []
        scaler = Scaler(
            store, settings, runtime.replicas, lambda ref, text: said.append(f"{ref}: {text}"),
            clock=lambda: now[0], room=lambda pids: rooms[0],
        )  # fmt: skip
        release = Release(
            id="chat-1", service="chat", lifecycle="Development", model_name="chat", model_version="1", digest=digest, bundle_path=str(bundle),
            created_at=0.0, created_by="test",
        )  # fmt: skip
        track = TrackState(
            service="chat", env="dev", target="local", track="stable", release_id="chat-1", weight=100, since=0.0
        )
        await store.write(lambda s: s.add_all([release, track]))
        yield Place(store, settings, runtime, world, scaler, load, now, rooms, said)
        await scaler.watcher.close()
        await asyncio.gather(*(supervisor.unwant(p.slot.owner, 10.0) for p in supervisor.of("model")))
        store.close()


async def test_load_adds_a_replica_and_quiet_gives_it_back_each_with_an_audit_row(place: Place) -> None:
    await place.until(ready=1)
    await place.look(40)
    assert await place.audits() == []
    place.load.write_text("14")
    await place.look(14)
    await place.until(ready=2)
    ((reason, detail),) = await place.audits()
    assert (detail["from"], detail["to"], detail["env"]) == (1, 2, "dev")
    assert "75% wanted" in reason
    # A rollout's own number does not take away what the load needs: its canary starts with as many.
    await place.world.scale("chat", "dev", "chat-1", 1)
    assert [r.is_wanted for r in place.runtime.replicas("chat", "dev")] == [True, True]
    pids = [replica.pid for replica in place.runtime.replicas("chat", "dev")]
    need = need_of(pids)
    assert need is not None and need.memory > 1_000_000
    assert room_for(pids) == max(0, available_bytes()) // need.memory or need.gpu_memory
    place.load.write_text("0")
    await place.look(20)
    assert len(await place.audits()) == 1
    await place.look(40)
    await place.until(ready=1)
    assert [(d["from"], d["to"]) for _, d in await place.audits()] == [(1, 2), (2, 1)]
    assert place.said[1].startswith("service/chat: 2 → 1 replicas in dev: ")
    (view,) = await place.store.read(lambda s: capacity_views(s, place.config, place.scaler.watcher, "chat", "", 300))
    assert (view.wanted, view.autoscaled, view.concurrency, view.requests) == (1, True, 10, 0)


async def test_a_hold_stops_it_and_a_moving_rollout_gives_nothing_back(place: Place) -> None:
    await place.until(ready=1)
    place.load.write_text("14")
    lease = Lease(
        name="hold/dev", kind="hold", holder="ana", reason="looking", starts_at=0.0, ends_at=time.time() + 600
    )
    await place.store.write(lambda s: s.add(lease))
    await place.look(20)
    assert await place.audits() == []
    await place.store.write(lambda s: s.delete(s.get(Lease, "hold/dev")))
    place.rooms[0] = 0
    await place.look(2)
    assert await place.audits() == []
    place.rooms[0] = None
    await place.look(2)
    assert [detail["to"] for _, detail in await place.audits()] == [2]
    place.load.write_text("0")
    moving = Rollout(
        id="ro-1", service="chat", env="dev", target="local", to_release="chat-2", from_release="chat-1",
        strategy="canary", policy={}, state="paused", created_at=0.0, state_since=0.0, created_by="ana",
    )  # fmt: skip
    await place.store.write(lambda s: s.add(moving))
    await place.look(80)
    assert len(await place.audits()) == 1
