"""The supervisor of local processes over children that an earlier engine left behind: each a real process with its lock."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlmodel import Session, select

from adapters.local import handshakes, supervisor
from adapters.local.child import ChildSpec
from adapters.local.places import Backoff, Slot
from adapters.local.runtime import LocalRuntime
from adapters.local.spawn import Spawner
from adapters.local.supervisor import Supervisor
from adapters.ports import Observed
from engine.rollouts.back.keeping import PlanKeeper
from engine.rollouts.world import World
from state.config import parse_config
from state.models import Release, Spawn, TrackState
from state.store import Store

CHILD = """
import sys
from http.server import BaseHTTPRequestHandler
from socketserver import UnixStreamServer
import json
from adapters.local.child import run_child

class Says(BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({**self.server.identity, "ready": True}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def address_string(self):
        return ""
    def log_message(self, *words):
        pass

def body(spec):
    with UnixStreamServer(spec.socket, Says) as server:
        server.identity = {**spec.identity(), **spec.payload}
        server.serve_forever()

sys.exit(run_child(sys.argv, body))
"""
SLOT = Slot(
    "model/chat/dev/a/0", "model", "no.such.module", lambda spawn_id: {}, service="chat", env="dev", release_id="a",
    digest="d",
)  # fmt: skip
CONFIG = "[service.chat]\n[environment.dev]\nprotected = false\n"


@dataclass
class Left:
    """What an earlier engine has left: children, their rows, and a new supervisor that does not know them yet."""

    store: Store
    supervisor: Supervisor
    run: Path
    sockets: Path
    children: list[subprocess.Popen[bytes]] = field(default_factory=list)

    async def child(self, *, state: str = "ready", **says: str) -> subprocess.Popen[bytes]:
        """A child of SLOT that lives and answers; `says` is what it says in place of the truth."""
        spec = ChildSpec("m-1", "model", self.run, str(self.sockets / "m-1.sock"), "d", says)
        spec.write(self.run / "m-1.spec.json")
        row = Spawn(spawn_id="m-1", kind="model", owner=SLOT.owner, service="chat", env="dev", release_id="a", digest="d",
                    state=state, started_at=time.time())  # fmt: skip
        await self.store.write(lambda s: s.add(row))
        process = _begin(self.run / "m-1.spec.json")
        self.children.append(process)
        while await handshakes.spoken(spec) is None:
            assert process.poll() is None
            await asyncio.sleep(0.02)
        return process


def _begin(spec: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", CHILD, str(spec)], start_new_session=True)


@pytest.fixture
async def left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Left]:
    monkeypatch.setattr(handshakes, "ADOPT_PATIENCE_S", 0.1)
    monkeypatch.setattr(handshakes, "HANDSHAKE_TIMEOUT_S", 0.1)
    (tmp_path / "run").mkdir()
    store = Store.open(tmp_path / "airboss.db")
    with tempfile.TemporaryDirectory(prefix="ab-", dir="/tmp") as sockets:
        spawner = Spawner(tmp_path / "run", tmp_path / "logs")
        made = Left(store, Supervisor(spawner, store, Path(sockets), Backoff(), lambda owner: None), spawner.run_dir, Path(sockets))  # fmt: skip
        yield made
        await made.supervisor.detach()
        for child in made.children:
            with suppress(ProcessLookupError):
                child.kill()
            child.wait()
        store.close()


@pytest.mark.parametrize("state", ["ready", "started"])
async def test_a_living_child_too_busy_to_say_who_it_is_is_not_ended_by_the_next_engine(left: Left, state: str) -> None:
    busy = await left.child(state=state)
    busy.send_signal(signal.SIGSTOP)
    place = await left.supervisor.want(SLOT)
    assert (place.child.pid, place.is_ready) == (busy.pid, state == "ready")
    busy.send_signal(signal.SIGCONT)
    async with asyncio.timeout(10):
        while not place.is_ready or place.silent_until is not None:
            await asyncio.sleep(0.02)
    assert busy.poll() is None


async def test_a_watch_that_is_ended_at_the_instant_its_child_is_ready_ends(left: Left) -> None:
    """It would wait for the child's end instead, and who ends the child would wait for the watch: for ever."""
    await left.child(state="started")
    place = await left.supervisor.want(SLOT)
    watch, place.is_ready = place.task, False
    assert watch is not None
    left.supervisor.on_change = lambda owner: asyncio.get_running_loop().call_soon(watch.cancel)
    assert watch in (await asyncio.wait({watch}, timeout=30))[0]
    left.supervisor.on_change = lambda owner: None
    async with asyncio.timeout(30):
        await left.supervisor.unwant(SLOT.owner, 10.0)


async def test_one_that_hangs_for_good_is_replaced(left: Left, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "SILENT_S", 0.2)
    monkeypatch.setattr(supervisor, "HUNG_GRACE_S", 0.1)
    hung = await left.child()
    hung.send_signal(signal.SIGSTOP)
    place = await left.supervisor.want(SLOT)
    assert place.child.pid == hung.pid
    await asyncio.to_thread(hung.wait, 10)


async def test_one_that_says_it_is_another_is_replaced(left: Left) -> None:
    other = await left.child(digest="another")
    with suppress(Exception):
        await left.supervisor.want(SLOT)
    assert await asyncio.to_thread(other.wait, 10) is not None


class Meanwhile:
    """A router that has no traffic for anybody; `do` is what somebody does while it is asked."""

    def __init__(self, do: Callable[[], None]) -> None:
        self.do = do

    async def observe(self, service: str, env: str) -> Observed:
        self.do()
        return Observed({})


async def test_what_a_way_back_takes_at_the_end_of_its_warm_hold_is_not_stopped_under_it(left: Left) -> None:
    child = await left.child()
    await left.supervisor.want(SLOT)
    runtime, config = (
        LocalRuntime(left.supervisor, threads=1, crash_loop_after=0),
        parse_config(CONFIG, Path("airboss.toml")),
    )
    release = Release(
        id="a", service="chat", lifecycle="Development", model_name="m", model_version="1", digest="d",
        bundle_path=str(left.run), created_at=0.0, created_by="ann",
    )  # fmt: skip
    await left.store.write(lambda s: s.add(release))
    plans = PlanKeeper(left.store, config, left.run, runtime.replicas, admin_sockets=list)

    def go_back() -> None:
        track = TrackState(
            service="chat", env="dev", target="local", track="stable", release_id="a", weight=100, since=0
        )
        left.store.write_now(lambda s: s.merge(track))

    world = World(left.store, runtime, Meanwhile(go_back), config, plans)  # type: ignore[arg-type]
    await world.retire()
    (replica,) = runtime.replicas("chat", "dev")
    assert replica.is_wanted and replica.is_ready, "its users are answered by nobody"
    counted: list[int] = []

    def count(session: Session) -> None:
        counted.append(sum(r.is_ready for r in runtime.replicas("chat", "dev")))
        for row in session.exec(select(TrackState)):
            session.delete(row)

    # The other way round: a transaction that is under way when it is stopped counts on nothing, or is seen.
    with runtime.set_aside("chat", "dev", "a"):
        await left.store.write(count)
    assert counted == [0]
    world.router = Meanwhile(lambda: None)  # type: ignore[assignment]
    await world.retire()
    assert await asyncio.to_thread(child.wait, 30) is not None, "nothing wants it now"
