"""Keeps the processes an engine means to have: starts, adopts, watches, restarts with backoff, counts crash loops.

Every process has a row (`Spawn`) before it exists, so that an engine killed between the two finds out what was meant.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from sqlmodel import Session, col, select

from adapters.local.child import ChildSpec
from adapters.local.spawn import Child, Spawner, new_spawn_id
from state.models import Spawn
from state.store import Store

log = logging.getLogger("airboss.supervisor")

READY_POLL_S = 0.1
HANDSHAKE_TIMEOUT_S = 5.0
SPAWN_PREFIX = {"model": "m-", "gateway": "g-", "registry": "r-"}


@dataclass(frozen=True, slots=True)
class Slot:
    """A place for one process. `payload` builds the child's settings from its spawn id; `pass_fds` go with it."""

    owner: str
    kind: str
    module: str
    payload: Callable[[str], Mapping[str, Any]]
    pass_fds: Sequence[int] = ()
    service: str = ""
    env: str = ""
    release_id: str = ""
    digest: str = ""
    index: int = 0
    crash_loop_after: int = 0
    """Stop restarting for good once this many deaths came in the window; 0 = restart for ever."""


@dataclass(slots=True)
class Place:
    """A slot with the process that is in it now."""

    slot: Slot
    child: Child
    is_ready: bool = False
    restarts: int = 0
    started_at: float = 0.0
    last_end: str = ""
    deaths: deque[float] = field(default_factory=lambda: deque(maxlen=32))
    is_wanted: bool = True
    task: asyncio.Task[None] | None = None


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds before a restart: doubles from `first_s` to `most_s`; deaths older than `window_s` are forgotten."""

    first_s: float = 0.5
    most_s: float = 30.0
    window_s: float = 120.0

    def delay_s(self, deaths: Sequence[float], now: float) -> float:
        """The wait after the newest of `deaths` (monotonic seconds); the first death is answered at once."""
        recent = [d for d in deaths if now - d < self.window_s]
        return 0.0 if len(recent) <= 1 else min(self.first_s * 2.0 ** (len(recent) - 2), self.most_s)


class Supervisor:
    """The places of one engine. `on_change` is called, on the event loop, whenever a place changed."""

    def __init__(
        self, spawner: Spawner, store: Store, socket_dir: Path, backoff: Backoff, on_change: Callable[[str], None]
    ) -> None:
        self.spawner = spawner
        self.store = store
        self.socket_dir = socket_dir
        self.backoff = backoff
        self.on_change = on_change
        self.places: dict[str, Place] = {}
        self._lock = asyncio.Lock()

    async def want(self, slot: Slot) -> Place:
        """Have a process in `slot`: the one that is there, one to adopt, or a new one."""
        async with self._lock:
            place = self.places.get(slot.owner)
            if place is not None and place.is_wanted:
                return place
            while slot.owner in self.places:
                # The one before is still finishing its streams; its place is free once it has ended.
                await asyncio.sleep(0.05)
            child = await self._adopted(slot)
            is_new = child is None
            if child is None:
                child = await self._start(slot)
            place = Place(slot, child, started_at=time.time())
            self.places[slot.owner] = place
            place.task = asyncio.create_task(self._watch(place, is_new), name=f"watch {slot.owner}")
            return place

    async def unwant(self, owner: str, grace_s: float) -> None:
        """End the process of the place `owner`, gently, and forget the place."""
        place = self.places.get(owner)
        if place is None:
            return
        place.is_wanted = False
        spawn_id = place.child.spec.spawn_id
        await self.store.write(lambda s: _mark(s, spawn_id, desired="stop"))
        if place.task is not None:
            place.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await place.task
        ended = await place.child.terminate(grace_s)
        await self._ended(spawn_id, ended.cause)
        self.places.pop(owner, None)
        self.on_change(owner)

    def of(self, kind: str) -> list[Place]:
        """The places of one kind, in slot order."""
        return sorted((p for p in self.places.values() if p.slot.kind == kind), key=lambda p: p.slot.owner)

    def crash_loop(self, owner: str) -> str:
        """Why the place counts as a crash loop, or the empty string."""
        place = self.places.get(owner)
        if place is None or not place.slot.crash_loop_after:
            return ""
        recent = [d for d in place.deaths if time.monotonic() - d < self.backoff.window_s]
        if len(recent) < place.slot.crash_loop_after:
            return ""
        return f"crash loop: {len(recent)} deaths within {self.backoff.window_s:.0f} s, the last: {place.last_end}"

    async def detach(self) -> None:
        """Stop watching; the processes live on."""
        for place in self.places.values():
            if place.task is not None:
                place.task.cancel()
        for place in self.places.values():
            if place.task is not None:
                with contextlib.suppress(asyncio.CancelledError):
                    await place.task

    async def _adopted(self, slot: Slot) -> Child | None:
        rows = await self.store.read(lambda s: _rows(s, slot.owner))
        found: Child | None = None
        for spawn_id, digest in rows:
            child = self.spawner.adopt(spawn_id)
            if child is None:
                await self._ended(spawn_id, self.spawner.exit_of(spawn_id).cause)
            elif found is None and digest == slot.digest and await handshake(child.spec) is not None:
                found = child
            else:
                await child.terminate(5.0)
        if found is not None:
            log.info("adopted %s %s (pid %d)", slot.kind, found.spec.spawn_id, found.pid)
        return found

    async def _ended(self, spawn_id: str, cause: str) -> None:
        # Its spec goes too: a child that was spawned but had not come to its lock finds none, and leaves.
        self.spawner.forget(spawn_id)
        await self.store.write(lambda s: _mark(s, spawn_id, state="ended", end_cause=cause, ended_at=time.time()))

    async def _start(self, slot: Slot) -> Child:
        spawn_id = new_spawn_id(SPAWN_PREFIX[slot.kind])
        socket = str(self.socket_dir / f"{spawn_id}.sock")
        row = Spawn(
            spawn_id=spawn_id,
            kind=slot.kind,
            owner=slot.owner,
            service=slot.service,
            env=slot.env,
            release_id=slot.release_id,
            digest=slot.digest,
            slot=slot.index,
            address=f"unix:{socket}",
            started_at=time.time(),
        )
        await self.store.write(lambda s: s.add(row))
        spec = ChildSpec(spawn_id, slot.kind, self.spawner.run_dir, socket, slot.digest, dict(slot.payload(spawn_id)))
        child = self.spawner.spawn(spec, slot.module, pass_fds=slot.pass_fds)
        await self.store.write(lambda s: _mark(s, spawn_id, state="started", pid=child.pid))
        return child

    async def _watch(self, place: Place, is_new: bool) -> None:
        while place.is_wanted:
            await self._until_ready(place)
            ended = await place.child.wait()
            place.is_ready = False
            place.last_end = ended.cause
            place.deaths.append(time.monotonic())
            spawn_id = place.child.spec.spawn_id
            log.warning("%s %s ended: %s", place.slot.kind, spawn_id, ended.cause)
            self.on_change(place.slot.owner)
            await self._ended(spawn_id, ended.cause)
            await asyncio.sleep(self.backoff.delay_s(tuple(place.deaths), time.monotonic()))
            while self.crash_loop(place.slot.owner):
                await asyncio.sleep(1.0)
            place.restarts += 1
            place.started_at = time.time()
            place.child = await self._start(place.slot)
            self.on_change(place.slot.owner)

    async def _until_ready(self, place: Place) -> None:
        ending = asyncio.create_task(place.child.wait())
        try:
            while not ending.done():
                facts = await handshake(place.child.spec)
                if facts is not None and facts.get("ready", True):
                    place.is_ready = True
                    spawn_id = place.child.spec.spawn_id
                    await self.store.write(lambda s: _mark(s, spawn_id, state="ready", ready_at=time.time()))
                    self.on_change(place.slot.owner)
                    return
                await asyncio.wait({ending}, timeout=READY_POLL_S)
        finally:
            ending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await ending


async def handshake(spec: ChildSpec) -> dict[str, Any] | None:
    """What the child says of itself, if it is the one meant (spawn id and digest agree); else None."""
    try:
        async with httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=spec.socket), timeout=HANDSHAKE_TIMEOUT_S
        ) as client:
            answer = await client.get("http://child/admin/handshake")
        body = answer.json()
    except (httpx.HTTPError, ValueError, OSError):
        return None
    if not isinstance(body, dict) or body.get("spawn_id") != spec.spawn_id or body.get("digest") != spec.digest:
        return None
    return body


def _rows(session: Session, owner: str) -> list[tuple[str, str]]:
    query = select(Spawn).where(Spawn.owner == owner, col(Spawn.state) != "ended").order_by(col(Spawn.started_at).desc())
    return [(row.spawn_id, row.digest) for row in session.exec(query)]


def _mark(session: Session, spawn_id: str, **fields: Any) -> None:
    row = session.get(Spawn, spawn_id)
    if row is None:
        return
    for name, value in fields.items():
        setattr(row, name, value)
    session.add(row)
