"""The autoscaler's loop: look, decide (pure), write the number with its audit row. The world then has what the row says.

It starts and stops nothing itself: rollouts' level-triggered look at the world does, as for every other number there, so that
an engine killed at any instruction goes on from the row.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sqlmodel import Session, col, select

from adapters.local.machine import room_for
from adapters.ports import ReplicaStatus
from engine.autoscaling.policy import Bounds, Decision, decide
from engine.autoscaling.watcher import LoadWatcher, Place
from engine.rollouts import records
from engine.rollouts.wanted import by_hand, is_moving, set_wanted, wanted_replicas
from state import audit
from state.config import Config
from state.models import TrackState
from state.store import Store

log = logging.getLogger("airboss.autoscaling")

TICK_S = 2.0
ACTOR = "system:autoscaler"


@dataclass(frozen=True, slots=True)
class _Standing:
    """What the store says of one place."""

    current: int
    is_moving: bool
    """A rollout is active there: capacity only goes up (I13)."""
    is_held: bool
    """A hold forbids it to act, or a hand has set the number."""


@dataclass(slots=True)
class Scaler:
    """Watches every service, and moves the replica count of those that have `[service.X.autoscale]`."""

    store: Store
    config: Config
    replicas: Callable[[str, str], Sequence[ReplicaStatus]]
    on_change: Callable[[str, str], None]
    clock: Callable[[], float] = time.monotonic
    room: Callable[[Sequence[int]], int | None] = room_for
    watcher: LoadWatcher = field(init=False)
    _changed_at: dict[Place, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.watcher = LoadWatcher(self.config, self.replicas, clock=self.clock)

    async def run(self) -> None:
        """Look and decide until cancelled. A turn that meets trouble is a line in the log; the next one comes."""
        try:
            while True:
                try:
                    await self.tick()
                except Exception:
                    log.exception("the autoscaler met trouble; it looks again")
                await asyncio.sleep(TICK_S)
        finally:
            await self.watcher.close()

    async def tick(self) -> None:
        """One look at every service, and at most one change a place."""
        served = await self.store.read(self._served)
        await self.watcher.look(served)
        for place in served:
            if self._is_scaled(place):
                await self._settle(place, served[place])

    def _is_scaled(self, place: Place) -> bool:
        environment = self.config.environment[place[1]]
        is_here = all(target.runtime == "local" for target in environment.targets)
        return self.config.service[place[0]].autoscale is not None and is_here and not environment.read_only

    async def _settle(self, place: Place, releases: Sequence[str]) -> None:
        standing = await self.store.read(lambda s: self._standing(s, place))
        if standing.is_held:
            return
        decision = self._decide(place, standing, None)
        if decision.replicas > standing.current:
            pids = [r.pid for r in self.replicas(*place) if r.release_id in releases and r.is_alive]
            decision = self._decide(place, standing, await asyncio.to_thread(self.room, pids))
        if decision.replicas == standing.current:
            return
        if await self.store.write(lambda s: self._write(s, place, standing, decision)):
            self._changed_at[place] = self.clock()
            said = f"{standing.current} → {decision.replicas} replicas in {place[1]}: {decision.reason}"
            log.info("%s: %s", place[0], said)
            self.on_change(f"service/{place[0]}", said)

    def _decide(self, place: Place, standing: _Standing, room: int | None) -> Decision:
        settings = self.config.service[place[0]].autoscale
        assert settings is not None
        now = self.clock()
        bounds = Bounds(floor=standing.current if standing.is_moving else 0, room=room)
        return decide(
            settings, self.watcher.samples(*place), standing.current, bounds,
            now=now, changed_at=self._changed_at.setdefault(place, now),
        )  # fmt: skip

    def _served(self, session: Session) -> Mapping[Place, Sequence[str]]:
        found: dict[Place, list[str]] = {}
        for row in session.exec(select(TrackState).where(col(TrackState.weight) > 0).order_by(TrackState.track)):
            if row.service in self.config.service and row.env in self.config.environment:
                found.setdefault((row.service, row.env), []).append(row.release_id)
        return found

    def _standing(self, session: Session, place: Place) -> _Standing:
        service, env = place
        return _Standing(
            current=wanted_replicas(session, self.config, service, env),
            is_moving=is_moving(session, service, env),
            is_held=by_hand(session, service, env) is not None
            or bool(records.leases(session, env, "hold", time.time(), service)),
        )

    def _write(self, session: Session, place: Place, seen: _Standing, decision: Decision) -> bool:
        """The number and its audit row, in one transaction; False when the world moved since it was looked at."""
        if self._standing(session, place) != seen:
            return False
        service, env = place
        set_wanted(session, service, env, decision.replicas)
        audit.append(
            session, actor=ACTOR, action="service.autoscale", ref=f"service:{service}", reason=decision.reason,
            detail={"env": env, "from": seen.current, "to": decision.replicas, "rollout_active": seen.is_moving},
        )  # fmt: skip
        return True
