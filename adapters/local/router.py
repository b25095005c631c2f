"""The local traffic router: the wanted tracks in the store, the ready replicas of the runtime → the gateway's table."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

from sqlmodel import Session, col, select

from adapters.local.gateway import LocalGateway
from adapters.local.runtime import LocalRuntime
from adapters.ports import Route
from state import ids
from state.config import Config
from state.models import TrackState
from state.store import Store
from state.words import AirbossError, Conflict, Track

log = logging.getLogger("airboss.router")
REVISION_KEY = "gateway.revision"


class LocalRouter:
    """TrafficRouter (adapters.ports). The `track` rows say what is meant; `publish` makes every worker have it."""

    def __init__(self, store: Store, gateway: LocalGateway, runtime: LocalRuntime, config: Config) -> None:
        self.store = store
        self.gateway = gateway
        self.runtime = runtime
        self.config = config
        self.revision = 0
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
        self.revision = max(known, _kept_revision(self.gateway), served)

    async def apply(self, route: Route) -> int:
        """Set the service's tracks (absolute) and publish. Returns the revision every worker acknowledged."""
        await self.store.write(lambda s: set_tracks(s, route), urgent=True)
        return await self.publish()

    async def publish(self) -> int:
        """Give every worker the table that the rows and the ready replicas make; nothing changed = nothing sent."""
        async with self._lock:
            routes = await self.store.read(self._routes)
            body: dict[str, Any] = {"default_env": self._default_env(), "routes": routes}
            if self._published != body:
                self.revision += 1
                revision = str(self.revision)
                await self.store.write(lambda s: ids.put(s, REVISION_KEY, revision))
                self._published, self._issued_at = body, time.time()
            try:
                await self.gateway.put({"revision": self.revision, "issued_at": self._issued_at, **body})
            except Conflict as newer:
                # Another hand gave the workers a newer table: ours is what is meant, and must be newer still.
                log.warning("the gateway has a table of another hand's: %s", newer)
                await self.recover()
                self.revision += 1
                revision = str(self.revision)
                await self.store.write(lambda s: ids.put(s, REVISION_KEY, revision))
                await self.gateway.put({"revision": self.revision, "issued_at": self._issued_at, **body})
            return self.revision

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

    async def observe(self, service: str, env: str) -> Mapping[str, int] | None:
        """release → weight, when all workers that are up agree; else None. One that starts takes the newest table first."""
        try:
            tables = await self.gateway.tables()
        except AirbossError:
            return None
        if not tables:
            return None
        seen = [_weights(table, service, env) for table in tables]
        return seen[0] if all(one == seen[0] for one in seen) else None

    def _default_env(self) -> str:
        names = list(self.config.environment)
        return "production" if "production" in names else (names[0] if names else "")

    def _routes(self, session: Session) -> list[dict[str, Any]]:
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
                        [r.spawn_id, r.address] for r in ready if r.release_id == row.release_id and r.is_ready
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
            if routing := settings.routing.for_table(self.config.gateway.workers):
                routes[-1]["routing"] = routing
            if access := settings.access_for_table():
                routes[-1]["access"] = access
        return routes


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
        session.add(existing)


def _weights(table: Mapping[str, Any], service: str, env: str) -> Mapping[str, int]:
    for route in table.get("routes", ()):
        if route["service"] == service and route["env"] == env:
            return {b["release_id"]: int(b["weight"]) for b in route["backends"] if int(b["weight"])}
    return {}


def _kept_revision(gateway: LocalGateway) -> int:
    import json

    try:
        return int(json.loads((gateway.gateway_dir / "table.json").read_text(encoding="utf-8"))["revision"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
