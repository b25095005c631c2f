"""The local traffic router: the wanted tracks in the store, the ready replicas of the runtime → the gateway's table."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from sqlmodel import Session, col, select

from adapters.local.gateway import LocalGateway
from adapters.local.left_alone import LeftAlone, end_left_alone, left_alone
from adapters.local.tables import added_routing, merged_routing, observed, role_of, split_of
from adapters.ports import Observed, ReplicaStatus, Route
from state import ids
from state.config import Config
from state.models import TrackState
from state.store import Store
from state.words import AirbossError, Conflict, Track

log = logging.getLogger("airboss.router")
REVISION_KEY = "gateway.revision"


@dataclass(frozen=True, slots=True)
class Revision:
    """One table. `is_new`: it differs from the one before it."""

    number: int
    table: Mapping[str, Any]
    is_new: bool


class Replicas(Protocol):
    """What the router asks of a runtime."""

    def replicas(self, service: str, env: str) -> list[ReplicaStatus]:
        """Every replica there."""


class LocalRouter:
    """TrafficRouter (adapters.ports). The `track` rows say what is meant; `publish` makes every worker have it."""

    def __init__(self, store: Store, gateway: LocalGateway, runtime: Replicas, config: Config) -> None:
        self.store = store
        self.gateway = gateway
        self.runtime = runtime
        self.config = config
        self.revision = 0
        self.left_alone: dict[tuple[str, str], LeftAlone] = {}
        """Services whose traffic waits for a person since a restore. A route that is set for one ends that."""
        self._published: Mapping[str, Any] | None = None
        self._issued_at = 0.0
        self._lock = asyncio.Lock()

    async def recover(self) -> None:
        """After a restart: never go below a revision that a worker has."""
        known = int(await self.store.read(lambda s: ids.get(s, REVISION_KEY, "0")))
        served = 0
        try:
            served = max((int(table.get("revision", 0)) for table in await self.gateway.tables()), default=0)
        except AirbossError as error:
            log.warning("a gateway worker does not say which table it has: %s", error)
        self.revision = max(self.revision, known, _kept_revision(self.gateway), served)

    def mean(self, session: Session, route: Route) -> None:
        """Set the service's tracks (absolute) in the caller's transaction; `publish` then makes every worker have them."""
        set_tracks(session, route)
        if self.left_alone:
            end_left_alone(session, route.service, route.env)

    async def apply(self, route: Route, is_wanted: Callable[[Session], bool] = lambda session: True) -> int:
        """Set the service's tracks (absolute) and publish. Returns the revision every worker acknowledged.

        `is_wanted` is asked in the transaction that sets them: what a rollback has overtaken on the way here must not
        undo it. Raises Conflict when it says no.
        """

        def mean(session: Session) -> None:
            if not is_wanted(session):
                raise Conflict(f"{route.rollout_id} has moved on; its traffic is not set", code="moved_on")
            self.mean(session, route)

        await self.store.write(mean, urgent=True)
        return await self.publish()

    async def publish(self) -> int:
        """Give every worker the table that the rows and the ready replicas make; one that has it already is not changed.

        Tables are made one after the other and sent side by side: a worker that hangs on an older one must not keep a
        rollback from the others. Raises Unreachable, Conflict.
        """
        revision = await self._next_revision()
        try:
            return await self._send(revision)
        except Conflict as newer:
            if revision.number < self.revision:
                log.info("table %d was overtaken by %d on its way to the workers", revision.number, self.revision)
                return revision.number
            # Another hand gave the workers a newer table: ours is what is meant, and must be newer still.
            log.warning("the gateway has a table of another hand's: %s", newer)
        await self.recover()
        self._published = None
        return await self._send(await self._next_revision())

    async def _next_revision(self) -> Revision:
        """What the rows and the ready replicas make, under a new number unless it was made last."""
        async with self._lock:
            routes = await self.store.read(self._routes)
            body: dict[str, Any] = {"default_env": self._default_env(), "routes": routes}
            is_new = self._published != body
            if is_new:
                self.revision += 1
                self._published, self._issued_at = body, time.time()
            return Revision(self.revision, {"revision": self.revision, "issued_at": self._issued_at, **body}, is_new)

    async def _send(self, revision: Revision) -> int:
        """Have it served, and its number written down meanwhile: the workers and their kept table know that too."""
        putting = self.gateway.put(revision.table)
        if revision.is_new:
            await asyncio.gather(putting, self.store.write(partial(_note, revision.number), urgent=True))
        else:
            await putting
        return revision.number

    async def routes(self) -> list[dict[str, Any]]:
        """The table's routes as they are meant now."""
        return await self.store.read(self._routes)

    async def republish(self) -> None:
        """`publish`, for callers that only pass on a change; a gateway that is down is given the table once it is up."""
        try:
            await self.publish()
        except AirbossError as error:
            log.warning("the table could not be published yet: %s", error)

    def track_of(self, service: str, env: str, release_id: str) -> str:
        """The track that `release_id` plays in the table published last; "" when it has none."""
        for route in (self._published or {}).get("routes", ()):
            if (route["service"], route["env"]) == (service, env):
                return next((str(b["track"]) for b in route["backends"] if b["release_id"] == release_id), "")
        return ""

    async def observe(self, service: str, env: str) -> Observed | None:
        """The route, when all workers that are up agree; else None. One that starts takes the newest table first."""
        try:
            tables = await self.gateway.tables()
        except AirbossError:
            return None
        if not tables:
            return None
        seen = [observed(table, service, env) for table in tables]
        return seen[0] if all(one == seen[0] for one in seen) else None

    def _default_env(self) -> str:
        names = list(self.config.environment)
        return "production" if "production" in names else (names[0] if names else "")

    def _routes(self, session: Session) -> list[dict[str, Any]]:
        if self.left_alone:
            still = left_alone(session)
            self.left_alone = {place: left for place, left in self.left_alone.items() if "@".join(place) in still}
        grouped: dict[tuple[str, str, str], list[TrackState]] = {}
        for row in session.exec(select(TrackState).order_by(col(TrackState.track).desc())):
            if row.track in tuple(Track) and row.release_id:
                grouped.setdefault((row.service, row.env, row.target), []).append(row)
        routes = []
        for (service, env, target), rows in sorted(grouped.items()):
            if service not in self.config.service:
                continue
            ready = self.runtime.replicas(service, env)
            backends = [
                {
                    "track": row.track,
                    "release_id": row.release_id,
                    "weight": row.weight,
                    "replicas": [
                        [r.spawn_id, r.address]
                        for r in ready
                        if (r.release_id, r.role) == (row.release_id, role_of(row.track)) and r.is_ready
                    ],
                }
                for row in rows
            ]
            settings = self.config.service[service]
            routes.append(
                {
                    "service": service,
                    "env": env,
                    "target": target,
                    "rollout_id": next((r.rollout_id for r in rows if r.rollout_id), ""),
                    "slow_ms": settings.slo.latency_p95_ms,
                    "deadline_s": settings.deadline,
                    "backends": backends,
                }
            )
            added = next((row.routing for row in rows if row.routing), {})
            if routing := merged_routing(settings.routing.for_table(self.config.gateway.workers), added):
                routes[-1]["routing"] = routing
            if access := settings.access_for_table():
                routes[-1]["access"] = access
            if measures := settings.measures_for_table():
                routes[-1]["measures"] = measures
        return [*map(self._as_it_is, routes), *self._only_served(routes)]

    def _as_it_is(self, route: dict[str, Any]) -> dict[str, Any]:
        """The route as the record has it; as the gateway has it where that is to be left alone."""
        left = self.left_alone.get((route["service"], route["env"]))
        if left is None or dict(left.recorded) != split_of(route):
            return route
        return self._refreshed(left.route)

    def _only_served(self, routes: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Routes that the record knows nothing of and that are to be left alone."""
        recorded = {(route["service"], route["env"]) for route in routes}
        return [self._refreshed(left.route) for place, left in self.left_alone.items() if place not in recorded]

    def _refreshed(self, route: Mapping[str, Any]) -> dict[str, Any]:
        """With the replicas that answer now, of releases that this engine runs; others stay where they are."""
        ready = self.runtime.replicas(route["service"], route["env"])
        backends = []
        for backend in route["backends"]:
            mine = [[r.spawn_id, r.address] for r in ready if r.release_id == backend["release_id"] and r.is_ready]
            backends.append({**backend, "replicas": mine or backend["replicas"]})
        return {**route, "backends": backends}


def _note(revision: int, session: Session) -> None:
    """Keep the revision, unless a later one was faster."""
    if revision > int(ids.get(session, REVISION_KEY, "0")):
        ids.put(session, REVISION_KEY, str(revision))


def set_tracks(session: Session, route: Route) -> None:
    """Make the `track` rows of the route's service say what `route` says; what it does not name is removed."""
    wanted = {backend.track: backend for backend in route.backends}
    query = select(TrackState).where(TrackState.service == route.service, TrackState.env == route.env)
    for row in session.exec(query.where(TrackState.target == route.target)):
        if row.track in tuple(Track) and row.track not in wanted:
            session.delete(row)
    for track, backend in wanted.items():
        existing = session.get(TrackState, (route.service, route.env, route.target, track))
        if existing is None:
            existing = TrackState(
                service=route.service,
                env=route.env,
                target=route.target,
                track=track,
                release_id=backend.release_id,
                since=time.time(),
            )
        existing.release_id = backend.release_id
        existing.weight = backend.weight
        existing.rollout_id = route.rollout_id
        existing.routing = added_routing(route) if track == Track.STABLE else {}
        session.add(existing)


def kept_table(directory: Path) -> dict[str, Any]:
    """The table that the gateway of `directory` keeps, and starts again with; empty when it has none."""
    try:
        table = json.loads((directory / "table.json").read_text(encoding="utf-8"))
        return dict(table)
    except (OSError, ValueError, TypeError):
        return {}


def _kept_revision(gateway: LocalGateway) -> int:
    try:
        return int(kept_table(gateway.gateway_dir).get("revision", 0))
    except (ValueError, TypeError):
        return 0
