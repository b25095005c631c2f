"""Keeps the processes an engine means to have: starts, adopts, watches, restarts with backoff, counts crash loops.

Every process has a row (`Spawn`) before it exists, so that an engine killed between the two finds out what was meant.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
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
from state.words import AirbossError

log = logging.getLogger("airboss.supervisor")

READY_POLL_S = 0.1
HANDSHAKE_TIMEOUT_S = 5.0
ADOPT_PATIENCE_S = 10.0
"""How long a living child of an earlier engine may take to say who it is before it is replaced: it may just be starting."""
RETRY_S = 1.0
NEVER_CAME_UP = "never came up: its engine ended before it had begun"
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
    role: str = ""
    crash_loop_after: int = 0
    """Stop restarting for good once this many deaths came in the window; 0 = restart for ever."""
    passed_env: Sequence[str] = ()
    """Names of the engine's environment that the child gets besides the few that all get: its secrets' references."""


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
        self._locks: dict[str, asyncio.Lock] = {}

    async def want(self, slot: Slot) -> Place:
        """Have a process in `slot`: the one that is there, one to adopt, or a new one."""
        # One lock a place: whoever waits for a draining one holds up no other.
        async with self._locks.setdefault(slot.owner, asyncio.Lock()):
            place = self.places.get(slot.owner)
            if place is not None and place.is_wanted:
                return place
            while slot.owner in self.places:
                # The one before is still finishing its streams; its place is free once it has ended.
                await asyncio.sleep(0.05)
            # An adopted child that is ready is so from the first moment: a table made before its next word would leave it out.
            child, is_ready = await self._adopted(slot) or (await self._start(slot), False)
            place = Place(slot, child, is_ready=is_ready, started_at=time.time())
            place.deaths.extend(await self._deaths(slot.owner))
            self.places[slot.owner] = place
            place.task = asyncio.create_task(self._watch(place), name=f"watch {slot.owner}")
            return place

    async def unwant(self, owner: str, grace_s: float) -> None:
        """End the process of the place `owner`, gently, and forget the place."""
        place = self.places.get(owner)
        if place is None:
            return
        place.is_wanted = False
        spawn_id = place.child.spec.spawn_id
        await self._note(spawn_id, desired="stop")
        if place.task is not None:
            place.task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await place.task
        ended = await place.child.terminate(grace_s)
        await self._ended(spawn_id, ended.cause)
        for other, _ in await self.store.read(lambda s: _rows(s, owner)):
            # The watch was starting a successor just then.
            await self._end_stray(other, grace_s)
        self.places.pop(owner, None)
        self.on_change(owner)

    async def restart(self, owner: str, grace_s: float) -> None:
        """Drain the process of the place `owner` and start a new one in it. Deliberate: it counts as no death."""
        place = self.places.get(owner)
        if place is None or not place.is_wanted:
            return
        place.is_wanted = False
        self.on_change(owner)  # it is out of the table before it refuses its first request
        await self.unwant(owner, grace_s)
        await self.want(place.slot)
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

    async def end_strays(self, kinds: Sequence[str], grace_s: float) -> None:
        """End children of `kinds` that no place means to have: their rollout ended while no engine was there."""
        known = {p.child.spec.spawn_id for p in self.places.values()}
        rows = await self.store.read(lambda s: _unended(s, kinds))
        living = {spawn_id for spawn_id, child in self.spawner.living().items() if child.spec.kind in kinds}
        await asyncio.gather(*(self._end_stray(spawn_id, grace_s) for spawn_id in sorted({*rows, *living} - known)))

    async def _end_stray(self, spawn_id: str, grace_s: float) -> None:
        child = await self._living(spawn_id)
        if child is not None:
            log.warning("ending %s %s, which nothing means to have", child.spec.kind, spawn_id)
            await child.terminate(grace_s)
        await self._ended(spawn_id, "nothing meant to have it any more", desired="stop")

    async def _adopted(self, slot: Slot) -> tuple[Child, bool] | None:
        """The child of an earlier engine that is in `slot`, and whether it is ready; others of the slot are ended."""
        rows = await self.store.read(lambda s: _rows(s, slot.owner))
        found: tuple[Child, bool] | None = None
        for spawn_id, digest in rows:
            child = await self._living(spawn_id)
            if child is None:
                came_up = self.spawner.came_up(spawn_id)
                await self._ended(spawn_id, self.spawner.exit_of(spawn_id).cause if came_up else NEVER_CAME_UP)
                continue
            facts = await introduction(child) if found is None and digest == slot.digest else None
            if facts is None:
                await child.terminate(5.0)
                await self._ended(spawn_id, "replaced: it was not the one meant", desired="stop")
                continue
            found = child, bool(facts.get("ready", True))
            log.info("adopted %s %s (pid %d)", slot.kind, spawn_id, child.pid)
        return found

    async def _living(self, spawn_id: str) -> Child | None:
        """The living child, once it has said who it is; None when it is dead, and then it stays so."""
        deadline = time.monotonic() + ADOPT_PATIENCE_S
        while True:
            child = self.spawner.adopt(spawn_id)
            if child is not None or self.spawner.disown(spawn_id):
                return child
            if time.monotonic() > deadline:
                log.error("%s holds its lock and does not say who it is; it is left alone", spawn_id)
                return None
            await asyncio.sleep(READY_POLL_S)

    async def _deaths(self, owner: str) -> list[float]:
        """Deaths in this place that an earlier engine recorded, on the monotonic clock: a crash loop outlives an engine."""
        ago = time.time() - time.monotonic()
        ended = await self.store.read(lambda s: _deaths(s, owner, time.time() - self.backoff.window_s))
        return [at - ago for at in ended]

    async def _ended(self, spawn_id: str, cause: str, **fields: Any) -> None:
        self.spawner.forget(spawn_id)
        await self._note(spawn_id, state="ended", end_cause=cause, ended_at=time.time(), **fields)

    async def _note(self, spawn_id: str, **fields: Any) -> None:
        """Record facts about a child. A store that cannot take them (a full disk) must not end the watch over it."""
        try:
            await self.store.write(lambda s: _mark(s, spawn_id, **fields))
        except AirbossError as error:
            log.error("%s: %s could not be recorded: %s", spawn_id, fields, error)

    async def _restarted(self, slot: Slot) -> Child:
        """A new child, as soon as its row can be written and it can be started."""
        while True:
            try:
                return await self._start(slot)
            except (AirbossError, OSError) as error:
                log.error("%s cannot be started again yet: %s", slot.owner, error)
                await asyncio.sleep(RETRY_S)

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
        env = {name: os.environ[name] for name in slot.passed_env if name in os.environ}
        child = self.spawner.spawn(spec, slot.module, pass_fds=slot.pass_fds, env=env)
        await self.store.write(lambda s: _mark(s, spawn_id, state="started", pid=child.pid))
        return child

    async def _watch(self, place: Place) -> None:
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
            place.child = await self._restarted(place.slot)
            self.on_change(place.slot.owner)

    async def _until_ready(self, place: Place) -> None:
        ending = asyncio.create_task(place.child.wait())
        try:
            while not ending.done():
                facts = await handshake(place.child.spec)
                if facts is not None and facts.get("ready", True):
                    place.is_ready = True
                    await self._note(place.child.spec.spawn_id, state="ready")
                    self.on_change(place.slot.owner)
                    return
                await asyncio.wait({ending}, timeout=READY_POLL_S)
        finally:
            ending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await ending


async def introduction(child: Child) -> dict[str, Any] | None:
    """The handshake of a living child, with patience: it may have taken its lock and not opened its socket yet."""
    deadline = time.monotonic() + ADOPT_PATIENCE_S
    while True:
        facts = await handshake(child.spec)
        if facts is not None or not child.is_alive() or time.monotonic() > deadline:
            return facts
        await asyncio.sleep(READY_POLL_S)


async def handshake(spec: ChildSpec) -> dict[str, Any] | None:
    """What the child says of itself, if it is the one meant (spawn id and digest agree); else None."""
    try:
        # No TLS here: without verify=False the transport would read all root certificates, 35 ms of the event loop's time.
        transport = httpx.AsyncHTTPTransport(uds=spec.socket, verify=False)
        async with httpx.AsyncClient(transport=transport, timeout=HANDSHAKE_TIMEOUT_S) as client:
            answer = await client.get("http://child/admin/handshake")
        body = answer.json()
    except (httpx.HTTPError, ValueError, OSError):
        return None
    if not isinstance(body, dict) or body.get("spawn_id") != spec.spawn_id or body.get("digest") != spec.digest:
        return None
    return body


def _rows(session: Session, owner: str) -> list[tuple[str, str]]:
    query = (
        select(Spawn).where(Spawn.owner == owner, col(Spawn.state) != "ended").order_by(col(Spawn.started_at).desc())
    )
    return [(row.spawn_id, row.digest) for row in session.exec(query)]


def _unended(session: Session, kinds: Sequence[str]) -> list[str]:
    query = select(Spawn.spawn_id).where(col(Spawn.kind).in_(kinds), col(Spawn.state) != "ended")
    return list(session.exec(query))


def _deaths(session: Session, owner: str, since: float) -> list[float]:
    """When children of the place died by themselves after `since`, oldest first; a deliberate stop begins anew."""
    query = select(Spawn).where(Spawn.owner == owner, Spawn.state == "ended").order_by(col(Spawn.started_at).desc())
    found: list[float] = []
    for row in session.exec(query.limit(32)):
        if row.desired == "stop" or (row.ended_at or 0.0) < since:
            break
        if row.end_cause != NEVER_CAME_UP:
            found.append(row.ended_at or 0.0)
    return found[::-1]


def _mark(session: Session, spawn_id: str, **fields: Any) -> None:
    row = session.get(Spawn, spawn_id)
    if row is None:
        return
    if fields.get("state") == "ready" and row.ready_at is None:
        row.ready_at = time.time()
    for name, value in fields.items():
        setattr(row, name, value)
    session.add(row)
