"""What the API's readers answer with: the store's records and the live facts, put together."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlmodel import Session, col, select

from adapters.guard import Standing as Guarded
from adapters.local.gateway import LocalGateway
from adapters.local.supervisor import Supervisor
from adapters.ports import Registry
from engine.api.events import EventHub
from engine.api.schemas import (
    AdapterView,
    AlertView,
    FleetRow,
    LogChunk,
    ReplicaView,
    RolloutView,
    SloView,
    Snapshot,
    StatusView,
)
from engine.api.views import fleet, records, rollouts
from engine.api.views.course import Courses
from engine.api.views.drills import newest_drill
from engine.autoscaling.watcher import LoadWatcher
from engine.backups import BackupFact
from engine.chain_keeper import ChainKeeper
from engine.metric_queries import MetricQueries
from engine.metrics_probe import MetricsProbe
from engine.observe.observer import Observer
from engine.pipelines.triggers.watch import Triggers
from engine.registry_catalogue import CatalogueCache
from engine.restored.standing import Standing
from state.config import Config
from state.models import Audit, Rollout, StageRun, TrackState
from state.paths import Paths
from state.store import Store
from state.words import RunState, UsageError

LOG_CHUNK = 64 * 1024
PodLogs = Callable[[str, str, str, int], Awaitable[list[dict[str, Any]]]]


async def no_pods(service: str, env: str, replica: str, lines: int) -> list[dict[str, Any]]:
    """Everything runs on this host."""
    return []


@dataclass(slots=True)
class Reader:
    """Answers every question the console asks; changes nothing."""

    store: Store
    config: Config
    paths: Paths
    supervisor: Supervisor
    gateway: LocalGateway
    observer: Observer
    events: EventHub
    adapters: Callable[[], Mapping[str, str]]
    version: str
    pid: int
    started_at: float
    chain: ChainKeeper
    registry: Callable[[], Awaitable[Registry]]
    load: LoadWatcher
    backup: Callable[[], BackupFact]
    restored: Standing
    standings: Callable[[], Sequence[Guarded]]
    metric: MetricQueries
    probe: MetricsProbe
    through: Callable[[Callable[[], Any]], Awaitable[Any]]
    """Makes a blocking call of the registry."""
    pod_logs: PodLogs = no_pods
    """(service, environment or "", beginning of a name, lines) → what pods wrote."""
    demo: dict[str, Any] = field(default_factory=dict)
    triggers: Triggers | None = None
    courses: Courses = field(default_factory=Courses)
    catalogue: CatalogueCache = field(init=False)

    def __post_init__(self) -> None:
        self.catalogue = CatalogueCache(self.registry, self.through)

    async def status(self) -> StatusView:
        """One screen of health."""
        return await self.store.read(self._status)

    def _status(self, session: Session) -> StatusView:
        newest = session.exec(select(Audit).order_by(col(Audit.id).desc()).limit(1)).first()
        gateways, models = self.supervisor.of("gateway"), self.supervisor.of("model")
        backup = self.backup()
        return StatusView(
            version=self.version, pid=self.pid, workspace=str(self.paths.root),
            name=self.config.workspace.get("name", self.paths.root.name), is_demo=self.config.is_demo,
            state="paused (restored)" if self.restored.is_open else "running",
            started_at=self.started_at, gateway=self.gateway.address, gateway_workers=self.gateway.wanted_workers,
            gateway_ready=sum(p.is_ready for p in gateways), replicas=sum(p.is_wanted for p in models),
            replicas_ready=sum(p.is_ready and p.is_wanted for p in models), adapters=dict(self.adapters()),
            audit_rows=(newest.id or 0) if newest else 0, audit_head=newest.hash if newest else self.chain.state.head,
            audit_ok=self.chain.state.is_whole and not self.store.anchor_trouble, audit_unchecked=self.chain.unchecked,
            store_trouble=self.store.writes.trouble,
            profiles=self.probe.seen, no_one_is_paged=not self.observer.status().tells_somebody, backup_at=backup.made_at,
            drift=tuple(
                {"service": d.service, "env": d.env, "release": d.release, "what": d.what, "says": d.says(), "beyond": list(d.beyond)}
                for d in self.observer.drift.drifts
            ),
            cost=tuple(
                {"service": c.service, "env": c.env, "says": c.says(), "over": list(c.over)} for c in self.observer.costs()
            ),
            backup_trouble=backup.trouble, drill=newest_drill(session), demo=dict(self.demo),
            down=tuple(
                AdapterView(name=s.name, error=s.error, since=s.since, goes_on=s.goes_on)
                for s in self.standings() if s.since is not None
            ),
        )  # fmt: skip

    async def snapshot(self) -> Snapshot:
        """Everything the first screens show, at one moment."""
        seq = self.events.seq
        return await self.store.read(lambda session: self._snapshot(session, seq))

    def _snapshot(self, session: Session, seq: int) -> Snapshot:
        return Snapshot(
            seq=seq, as_of=time.time(), status=self._status(session), fleet=self.fleet(session),
            rollouts=rollouts.rollout_views(session, self.config, live=self.live_p95, limit=30),
            runs=records.run_views(session, limit=30), releases=records.release_views(session, limit=100),
            alerts=self.alerts(), slos=self.slos(), serving=self.serving(),
            audit=rollouts.events(session, limit=200, newest=True),
        )  # fmt: skip

    def fleet(self, session: Session) -> tuple[FleetRow, ...]:
        """A row for every service in every environment where it is, or is being, rolled out; else one a service."""
        live = {(t.service, t.env) for t in session.exec(select(TrackState))}
        live |= {(r.service, r.env) for r in session.exec(select(Rollout))}
        rows = []
        for service in self.config.service:
            for env in self.config.environment:
                if (service, env) in live or (len(self.config.environment) == 1):
                    rows.append(self._fleet_row(session, service, env))
        return tuple(rows)

    def _fleet_row(self, session: Session, service: str, env: str) -> FleetRow:
        ready: dict[str, tuple[int, int]] = {}
        for place in self.supervisor.of("model"):
            if place.slot.service == service and place.slot.env == env and place.is_wanted:
                up, total = ready.get(place.slot.release_id, (0, 0))
                ready[place.slot.release_id] = (up + place.is_ready, total + 1)
        if self.config.environment[env].cluster is not None:
            ready = fleet.ready_pods(self.load.replicas(service, env))
        return fleet.fleet_row(
            session, self.config, service, env,
            rates=self.observer.rates(service, env),
            series=self.observer.rate_series(service, env),
            slo=self.observer.slo_status(service, env), ready=ready, alerts=self.observer.alerts(),
        )  # fmt: skip

    def live_p95(self, service: str, env: str) -> Mapping[str, float | None]:
        """release → p95 of the last minute in ms."""
        return {t.release_id: t.p95_ms for t in self.observer.rates(service, env).by_track.values()}

    async def rollout(self, rollout_id: str) -> RolloutView:
        """One rollout, whole. Raises UsageError when there is none."""

        def read(session: Session) -> RolloutView:
            row = session.get(Rollout, rollout_id)
            if row is None:
                raise UsageError(
                    f"there is no rollout {rollout_id}", hint="`airboss rollout list` shows them", code="no_rollout"
                )
            view = rollouts.rollout_view(session, self.config, row, live=self.live_p95, whole=True)
            return view.model_copy(update={"course": self.courses.of(session, row, time.time())})

        return await self.store.read(read)

    def alerts(self) -> tuple[AlertView, ...]:
        """The alerts that hold now."""
        book = self.observer.book
        return tuple(fleet.alert_view(a, book.is_silenced(a)) for a in book.active())

    async def registry_aliases(self, model_name: str) -> dict[str, str]:
        """alias → version of a model, as the registry has it now. Raises Unreachable."""
        registry = await self.registry()
        try:
            return dict(await self.through(lambda: registry.aliases(model_name)))
        finally:
            registry.close()

    async def alert_history(self) -> tuple[AlertView, ...]:
        """Active and past alerts, newest first."""
        book = self.observer.book
        return tuple(fleet.alert_view(a, a.is_active and book.is_silenced(a)) for a in await book.history())

    def slos(self) -> tuple[SloView, ...]:
        """Every service's objectives."""
        return tuple(fleet.slo_view(self.config, status) for status in self.observer.slos())

    def serving(self) -> tuple[ReplicaView, ...]:
        """Every process that serves, and every replica in a cluster."""
        here = [fleet.replica_view(p) for kind in ("gateway", "model", "registry") for p in self.supervisor.of(kind)]
        clusters = [name for name, environment in self.config.environment.items() if environment.cluster is not None]
        pods = [
            fleet.pod_view(one) for env in clusters for s in self.config.service for one in self.load.replicas(s, env)
        ]
        return (*here, *pods)

    async def stage_log(self, run_id: str, stage: str, offset: int) -> LogChunk:
        """A piece of a stage's log. Raises UsageError when the run has no such stage."""
        found = await self.store.read(lambda s: _stage_log(s, run_id, stage))
        path = Path(found[0]) if found[0] else self.paths.runs / run_id / f"{stage}.log"
        try:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                start = min(offset, size) if offset >= 0 else max(size + offset, 0)
                file.seek(start)
                body = file.read(LOG_CHUNK)
        except FileNotFoundError:
            start, body, size = 0, b"", 0
        end = start + len(body)
        return LogChunk(
            text=body.decode("utf-8", errors="replace"), offset=start, next_offset=end,
            is_over=found[1] and end >= size,
        )  # fmt: skip


def _stage_log(session: Session, run_id: str, stage: str) -> tuple[str, bool]:
    row = session.get(StageRun, (run_id, stage))
    if row is None:
        names = session.exec(select(StageRun.name).where(StageRun.run_id == run_id)).all()
        raise UsageError(
            f"{run_id} has no stage {stage!r}", hint=f"its stages: {', '.join(names) or 'none'}", code="no_stage"
        )
    return row.log_path, RunState(row.state).is_over
