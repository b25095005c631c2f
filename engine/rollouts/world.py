"""The world as rollouts see it: replicas, routes, and what stays warm."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from sqlmodel import Session, col, select

from adapters.local.tables import role_of
from adapters.ports import Observed, ReplicaSetSpec, ReplicaStatus, Route
from engine.rollouts import clusters, journal, records
from engine.rollouts import effects as fx
from engine.rollouts.back.keeping import PlanKeeper
from engine.rollouts.back.targets import lost_bundle
from engine.rollouts.back.warm import REPLACING, is_warm, kept_warm
from engine.rollouts.floors import HoldsFloors, held_floors
from engine.rollouts.replica_spec import replica_spec
from engine.rollouts.room import lacking
from engine.rollouts.routes import extras_of, route_of
from engine.rollouts.values import ReplicaFacts
from engine.rollouts.wanted import gives_back, may_exceed_file, wanted_replicas
from state import clock
from state.config import Config
from state.models import Rollout, TrackState
from state.store import Store
from state.words import AirbossError, RolloutState, Track

log = logging.getLogger("airboss.rollouts")


WITH_BASELINE = (
    RolloutState.PREPARING,
    RolloutState.SHADOWING,
    RolloutState.STEP_APPLYING,
    RolloutState.STEP_BAKING,
    RolloutState.AWAITING_PROMOTION,
    RolloutState.PAUSED,
)
"""States in which fresh copies of stable stand beside the canary, where the policy has a baseline."""


class Replicas(Protocol):
    """What the world asks of a runtime; `adapters.local.runtime.LocalRuntime` is one."""

    async def ensure(self, spec: ReplicaSetSpec, *, allow_faults: bool = False) -> None:
        """Make the set so."""

    def replicas(self, service: str, env: str) -> list[ReplicaStatus]:
        """Every replica there."""

    def restart(self, spawn_id: str) -> None:
        """A new process in the place of this replica, begun and not waited for."""

    async def probe(self, spec: ReplicaSetSpec) -> str | None:
        """One token of each."""

    def crash_loop(self, service: str, env: str, release_id: str) -> str | None:
        """Why it counts as a crash loop."""


@runtime_checkable
class SetsAside(Protocol):
    """A runtime whose replicas are counted on without asking it again."""

    def set_aside(self, service: str, env: str, release_id: str, role: str = "") -> AbstractContextManager[None]:
        """Nobody counts on the set for the length of a block."""


class Router(Protocol):
    """What the world asks of a traffic router; `adapters.local.router.LocalRouter` is one."""

    def mean(self, session: Session, route: Route) -> None:
        """Write down, in the caller's transaction, that this is what is meant."""

    async def apply(self, route: Route, is_wanted: Callable[[Session], bool], /) -> int:
        """Absolute; returns the acknowledged revision. Raises Conflict when it is not wanted any more."""

    async def publish(self) -> int:
        """Have every worker serve what is meant; returns the acknowledged revision."""

    async def observe(self, service: str, env: str) -> Observed | None:
        """The route as every worker has it."""


@dataclass(slots=True)
class World:
    """Reads and changes the world for the controller; every change is absolute."""

    store: Store
    runtime: Replicas
    router: Router
    config: Config
    plans: PlanKeeper
    _noted: clusters.Standing = field(default_factory=dict)

    async def scale(self, service: str, env: str, release_id: str, replicas: int, role: str = "") -> None:
        """Have so many replicas of the release; of one that shall serve, no fewer than its autoscaler or a hand has decided."""

        def read(session: Session) -> tuple[ReplicaSetSpec, bool]:
            count = replicas
            is_kept = (service, env, release_id) in self._warm(session)
            if replicas and not is_kept and may_exceed_file(session, self.config, service, env):
                count = max(replicas, wanted_replicas(session, self.config, service, env))
            return replica_spec(session, self.config, service, env, release_id, count, role)

        spec, allow = await self.store.read(read)
        await self.runtime.ensure(spec, allow_faults=allow)

    async def replica_facts(
        self, seen: records.Opened, release_id: str, *, probe: bool, role: str = ""
    ) -> ReplicaFacts:
        """How many replicas of the release answer; with `probe`, each must just have generated a token."""
        there = [
            r for r in self.runtime.replicas(seen.service, seen.env) if (r.release_id, r.role) == (release_id, role)
        ]
        ready = sum(r.is_ready and r.is_alive for r in there)
        alive = sum(r.is_alive or r.is_wanted for r in there)  # one that died is started again, in its old place
        crash = self.runtime.crash_loop(seen.service, seen.env, release_id) or ""
        lacks = lacking(self.runtime, seen.service, seen.env, release_id)
        lost = "" if ready else await self.store.read(lambda s: lost_bundle(s, seen.env, release_id))
        if probe and ready:
            count = ready if seen.now.replaces else seen.now.replicas
            spec, _ = await self.store.read(
                lambda s: replica_spec(s, self.config, seen.service, seen.env, release_id, count, role)
            )
            if await self.runtime.probe(spec) is not None:
                return ReplicaFacts(ready=0, crash_loop=crash, lacks=lacks, alive=alive)
        return ReplicaFacts(ready=ready, crash_loop=crash, lacks=lacks, broken=lost, alive=alive)

    def ready(self, seen: records.Opened, release_id: str) -> int:
        """How many replicas of the release answer, as far as is known without asking."""
        there = self.runtime.replicas(seen.service, seen.env)
        return sum((r.release_id, r.role) == (release_id, "") and r.is_ready and r.is_alive for r in there)

    async def standing(self, service: str, env: str) -> tuple[Mapping[str, int] | None, fx.Extras]:
        """release → percent, and what else the route has, as every gateway worker has it."""
        seen = await self.router.observe(service, env)
        return (None, fx.PLAIN) if seen is None else (seen.weights, extras_of(seen))

    async def route(self, seen: records.Opened, effect: fx.Route, is_wanted: Callable[[Session], bool]) -> int:
        """Set the tracks and the split. Returns the table revision that every worker acknowledged.

        Raises Conflict when `is_wanted` says, in the transaction that would set them, that something else is by now.
        """
        return await self.router.apply(self.route_of(seen, effect), is_wanted)

    def route_of(self, seen: records.Opened, effect: fx.Route) -> Route:
        """The effect as a router takes it."""
        settings = self.config.service[seen.service]
        return route_of(
            effect, service=seen.service, env=seen.env, target=seen.target, rollout_id=seen.now.id, settings=settings
        )

    async def recover(self) -> None:
        """After a restart: have again every replica that is wanted (living ones are adopted)."""
        asked = await self.store.read(self._asked)
        for service, env, release_id, role in sorted(await self.store.read(self._kept)):
            counts = asked.get((service, env))
            if counts is None:
                await self._keep(service, env, release_id, role)
            elif counts.get(release_id, 0):
                await self.scale(service, env, release_id, counts[release_id])

    async def retire(self) -> None:
        """Have what a track serves; stop replicas that no track, no active rollout and no warm hold wants; keep the rollback plans fresh."""
        await self._note_clusters()
        await self._hold_floors()
        kept = await self.store.read(self._kept)
        asked = await self.store.read(self._asked)
        for service, env, release_id in sorted(await self.store.read(lambda s: self._served(s) | set(self._warm(s)))):
            if (service, env) in asked:
                continue  # a rollout that replaces replicas counts them by itself
            there = [
                r
                for r in self.runtime.replicas(service, env)
                if (r.release_id, r.role) == (release_id, "") and r.is_wanted
            ]
            wanted = await self._wanted(service, env, release_id)
            may_end = len(there) > wanted and await self._gives_back(service, env)
            if len(there) < wanted or may_end:
                await self._keep(service, env, release_id)
        for service in self.config.service:
            for env in self.config.environment:
                running = {(r.release_id, r.role) for r in self.runtime.replicas(service, env)}
                for release_id, role in sorted(running):
                    # Asked again: while others were seen to, somebody may have begun to roll it out.
                    is_kept = (service, env, release_id, role) in kept
                    if is_kept or await self.is_kept(service, env, release_id, role):
                        continue
                    weights, _ = await self.standing(service, env)
                    if not role and weights is None:
                        continue  # nobody can say that it serves no one: it is asked again
                    if not role and weights and weights.get(release_id):
                        log.warning("%s in %s: a table of another hand gives %s traffic; it is not stopped",
                                    service, env, release_id)  # fmt: skip
                        continue
                    await self.stop(service, env, release_id, role)
        await self.plans.keep()

    async def _note_clusters(self) -> None:
        """Have the store know what clusters have, whenever that is something else."""
        standing = clusters.standing_of(self.config, self.runtime.replicas)
        if standing != self._noted:
            await self.store.write(lambda s: clusters.note(s, copy.deepcopy(standing)))
            self._noted = standing

    async def _hold_floors(self) -> None:
        """Have autoscalers in clusters leave what rollouts count on; one that cannot be reached hinders nobody."""
        if not isinstance(self.runtime, HoldsFloors):
            return
        for env in [name for name, settings in self.config.environment.items() if settings.cluster is not None]:
            moves = self.runtime.floor_moves(env)
            wanted = await self.store.read(lambda s: held_floors(s, env, self._warm(s)))  # noqa: B023
            try:
                await self.runtime.hold_floors(env, wanted, moves)
            except AirbossError as error:
                log.warning("the floors of %s are looked at again: %s", env, error)

    async def stop(self, service: str, env: str, release_id: str, role: str = "") -> bool:
        """Stop the set unless something wants it; whether it goes.

        A way back takes whatever answers at the instant it is asked for. So nobody may count on the replicas while it is
        asked, behind every transaction that still did, whether they are wanted.
        """
        spec, allow = await self.store.read(lambda s: replica_spec(s, self.config, service, env, release_id, 0, role))
        aside = self.runtime.set_aside(service, env, release_id, role) if isinstance(self.runtime, SetsAside) else None
        with aside or nullcontext():
            if (service, env, release_id, role) in await self.store.write(self._kept):
                return False
            log.info("%s in %s: %s is no longer wanted; stopping it", service, env, release_id)
            await self.runtime.ensure(spec, allow_faults=allow)
            return True

    async def is_kept(self, service: str, env: str, release_id: str, role: str = "") -> bool:
        """A track, an active rollout or a warm hold wants the release's replicas."""
        return (service, env, release_id, role) in await self.store.read(self._kept)

    async def _keep(self, service: str, env: str, release_id: str, role: str = "") -> None:
        """Have the release's replicas; one that cannot be had now is tried again at the next look."""
        try:
            await self.scale(service, env, release_id, await self._wanted(service, env, release_id), role)
        except (AirbossError, OSError) as error:
            log.error("%s in %s: %s cannot be had: %s", service, env, release_id, error)

    async def _wanted(self, service: str, env: str, release_id: str) -> int:
        def read(session: Session) -> int:
            warm = self._warm(session).get((service, env, release_id))
            return wanted_replicas(session, self.config, service, env) if warm is None else warm

        return await self.store.read(read)

    async def _gives_back(self, service: str, env: str) -> bool:
        return await self.store.read(lambda s: gives_back(s, self.config, service, env))

    def _warm(self, session: Session) -> dict[tuple[str, str, str], int]:
        return kept_warm(session, self.config, clock.now())

    def _served(self, session: Session) -> set[tuple[str, str, str]]:
        rows = session.exec(select(TrackState).where(TrackState.weight > 0))
        known = {(row.service, row.env, row.release_id) for row in rows}
        return {k for k in known if k[0] in self.config.service and k[1] in self.config.environment}

    def _asked(self, session: Session) -> dict[tuple[str, str], dict[str, int]]:
        """(service, env) → release → replicas, where an active rollout replaces replicas and so counts them itself."""
        rows = session.exec(select(Rollout).where(col(Rollout.state).in_(records.ACTIVE)))
        return {
            (row.service, row.env): counts
            for row in rows
            if row.strategy in REPLACING and row.from_release and (counts := journal.commanded(session, row.id))
        }

    def _kept(self, session: Session) -> set[tuple[str, str, str, str]]:
        """Service, environment, release and role of every replica set that something wants."""
        kept = {(row.service, row.env, row.release_id, role_of(row.track)) for row in session.exec(select(TrackState))}
        for row in session.exec(select(Rollout).where(col(Rollout.state).in_(records.ACTIVE))):
            if row.state not in (RolloutState.PLANNED, RolloutState.AWAITING_APPROVAL):
                kept.add((row.service, row.env, row.to_release, ""))
            if row.from_release is not None:
                kept.add((row.service, row.env, row.from_release, ""))
                if row.policy.get("baseline") and row.state in WITH_BASELINE:
                    kept.add((row.service, row.env, row.from_release, Track.BASELINE.value))
        for row in session.exec(select(Rollout).where(is_warm(clock.now()))):
            # One that replaced replicas has given the earlier ones' place away: there is nothing to keep warm.
            if row.from_release is not None and row.strategy not in REPLACING:
                kept.add((row.service, row.env, row.from_release, ""))
        return {k for k in kept if k[0] in self.config.service and k[1] in self.config.environment}
