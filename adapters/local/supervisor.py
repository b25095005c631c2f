"""Keeps the processes an engine means to have: starts, adopts, watches, restarts with backoff, counts crash loops.

Every process has a row (`Spawn`) before it exists, so that an engine killed between the two finds out what was meant.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from adapters.local.child import ChildSpec
from adapters.local.handshakes import (
    ADOPT_PATIENCE_S,
    READY_POLL_S,
    SILENT_S,
    handshake,
    introduction,
    is_meant,
)
from adapters.local.places import Backoff, Place, Slot
from adapters.local.spawn import Child, Spawner, new_spawn_id
from adapters.local.spawn_rows import NEVER_CAME_UP, deaths_of, mark, rows_of, unended
from state.models import Spawn
from state.store import Store
from state.words import AirbossError

log = logging.getLogger("airboss.supervisor")

RETRY_S = 1.0
HUNG_GRACE_S = 5.0
SPAWN_PREFIX = {"model": "m-", "gateway": "g-", "registry": "r-"}


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
            while (there := self.places.get(slot.owner)) is not None:
                if there.is_wanted and not there.is_set_aside:
                    return there
                # The one before is still finishing its streams; its place is free once it has ended.
                await asyncio.sleep(0.05)
            place = await self._adopted(slot) or Place(slot, await self._start(slot), started_at=time.time())
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
        for other, *_ in await self.store.read(lambda s: rows_of(s, owner)):
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
        rows = await self.store.read(lambda s: unended(s, kinds))
        living = {spawn_id for spawn_id, child in self.spawner.living().items() if child.spec.kind in kinds}
        await asyncio.gather(*(self._end_stray(spawn_id, grace_s) for spawn_id in sorted({*rows, *living} - known)))

    async def _end_stray(self, spawn_id: str, grace_s: float) -> None:
        child = await self._living(spawn_id)
        if child is not None:
            log.warning("ending %s %s, which nothing means to have", child.spec.kind, spawn_id)
            await child.terminate(grace_s)
        await self._ended(spawn_id, "nothing meant to have it any more", desired="stop")

    async def _adopted(self, slot: Slot) -> Place | None:
        """The child of an earlier engine that is in `slot`; others of the slot are ended.

        It is ready from the first moment if it says so: a table made before its next word would leave it out. One that
        lives and says nothing is what its row has it as: on a busy host it serves users, and must not be ended for that.
        """
        found: Place | None = None
        for spawn_id, digest, state in await self.store.read(lambda s: rows_of(s, slot.owner)):
            child = await self._living(spawn_id)
            if child is None:
                came_up = self.spawner.came_up(spawn_id)
                await self._ended(spawn_id, self.spawner.exit_of(spawn_id).cause if came_up else NEVER_CAME_UP)
                continue
            could_be = found is None and digest == slot.digest
            said = await introduction(child) if could_be else None
            if not could_be or (said is not None and not is_meant(said, child.spec)):
                await child.terminate(5.0)
                await self._ended(spawn_id, "replaced: it was not the one meant", desired="stop")
                continue
            found = Place(slot, child, started_at=time.time())
            found.is_ready = state == "ready" if said is None else bool(said.get("ready", True))
            found.silent_until = time.monotonic() + SILENT_S if said is None else None
            silent = ", which does not answer yet" if said is None else ""
            log.info("adopted %s %s (pid %d)%s", slot.kind, spawn_id, child.pid, silent)
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
        ended = await self.store.read(lambda s: deaths_of(s, owner, time.time() - self.backoff.window_s))
        return [at - ago for at in ended]

    async def _ended(self, spawn_id: str, cause: str, **fields: Any) -> None:
        self.spawner.forget(spawn_id)
        await self._note(spawn_id, state="ended", end_cause=cause, ended_at=time.time(), **fields)

    async def _note(self, spawn_id: str, **fields: Any) -> None:
        """Record facts about a child. A store that cannot take them (a full disk) must not end the watch over it."""
        try:
            await self.store.write(lambda s: mark(s, spawn_id, **fields))
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
        await self.store.write(lambda s: mark(s, spawn_id, state="started", pid=child.pid))
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
                if facts is not None:
                    place.silent_until = None
                elif place.silent_until is not None and time.monotonic() > place.silent_until:
                    log.error("%s %s hangs: it is replaced", place.slot.kind, place.child.spec.spawn_id)
                    await place.child.terminate(HUNG_GRACE_S)
                if facts is not None and facts.get("ready", True):
                    place.is_ready = True
                    await self._note(place.child.spec.spawn_id, state="ready")
                    self.on_change(place.slot.owner)
                    return
                await asyncio.wait({ending}, timeout=READY_POLL_S)
        finally:
            ending.cancel()
            await asyncio.wait({ending})  # not `await ending`: who is cancelled at this instant must hear of it
