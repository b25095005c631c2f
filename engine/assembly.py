"""Everything that runs in one engine: the ports wired, the loops started, all of it ended in order."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from importlib.metadata import version as package_version
from typing import Any

import uvicorn
from sqlmodel import Session

from adapters.alertmanager import Alertmanagers
from adapters.kubernetes.cluster import Cluster
from adapters.kubernetes.router import KubeRouter
from adapters.kubernetes.runtime import KubeRuntime, served_by
from adapters.local.gateway import LocalGateway
from adapters.local.places import Backoff
from adapters.local.router import LocalRouter, kept_table
from adapters.local.runtime import LocalRuntime
from adapters.local.spawn import Spawner
from adapters.local.supervisor import Supervisor
from adapters.placing import PlacedRouter, PlacedRuntime
from engine.api.app import make_app
from engine.api.events import EventHub
from engine.api.peer import PeerProtocol
from engine.api.reader import Reader
from engine.autoscaling.scaler import Scaler
from engine.backups import BackupKeeper
from engine.chain_keeper import ChainKeeper
from engine.gateway.client import GatewayAdmin, fetch_listen_fd
from engine.metric_queries import MetricQueries
from engine.metrics_probe import MetricsProbe
from engine.metrics_source import prometheus_of
from engine.observe.copies import Copies
from engine.observe.observer import Observer
from engine.operations.desk import Desk
from engine.outlook import Outlook
from engine.people.governing import FileWatch
from engine.people.hooks.sender import HookSender
from engine.pipelines.runner import PipelineRunner
from engine.pipelines.triggers.watch import LOOK_S as TRIGGER_LOOK_S
from engine.pipelines.triggers.watch import Triggers
from engine.registry import RegistryHost
from engine.registry_watch import AliasWatch
from engine.restored.standing import Standing as Restored
from engine.rollouts.back.keeping import PlanKeeper
from engine.rollouts.controller import Controller
from engine.rollouts.registry_queue import RegistryQueue
from engine.rollouts.rehearsal import rehearse
from engine.rollouts.world import World
from engine.spill import import_spill
from state import audit
from state.backup import MARKER
from state.config import Config
from state.paths import Paths
from state.server_config import Credentials
from state.store import Store

log = logging.getLogger("airboss.engine")

SPILL_S = 1.0
FILE_LOOK_S = 2.0
BACKUP_LOOK_S = 20.0
LEASE_LOOK_S = 1.0
STRAY_GRACE_S = 10.0


@dataclass
class Engine:
    """Everything that runs in one engine. `serve` goes on until `stop`."""

    paths: Paths
    config: Config
    store: Store
    listener: socket.socket
    events: EventHub = field(default_factory=EventHub)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _drains: bool = False

    def __post_init__(self) -> None:
        settings = self.config.engine
        backoff = Backoff(settings.restart_backoff, settings.restart_backoff_max, settings.crash_loop_window)
        self.spawner = Spawner(self.paths.run, self.paths.logs)
        self.supervisor = Supervisor(self.spawner, self.store, self.paths.sockets, backoff, self._place_changed)
        self.clusters = {
            name: Cluster(name, target, self.config, self.paths.root, self._pods_changed)
            for name, env in self.config.environment.items()
            if (target := env.cluster) is not None
        }
        here = LocalRuntime(self.supervisor, threads=settings.model_threads, crash_loop_after=settings.crash_loop_count)
        self.runtime = PlacedRuntime(here, {n: KubeRuntime(c) for n, c in self.clusters.items()}, self.config)
        self.gateway = LocalGateway(
            self.supervisor, self.config.gateway, self.paths.gateway, admin=GatewayAdmin, fetch_fd=fetch_listen_fd,
            root=self.paths.root,
        )  # fmt: skip
        self.table = LocalRouter(self.store, self.gateway, self.runtime, self.config)
        routed = {n: KubeRouter(c) for n, c in self.clusters.items() if c.target.traffic != "gateway"}
        self.router = PlacedRouter(self.table, routed)
        self.registry = RegistryHost(self.supervisor, self.config.registry, self.paths)
        self.queue = RegistryQueue(self.store, self.registry.client, self._changed, self.registry.through)
        self.alias_watch = AliasWatch(
            self.store, self.registry.client, self.registry.through, self.registry.is_awake, self._changed
        )
        self.backups = BackupKeeper(self.paths, self.config.state)
        self.alert_source = self._alert_source()
        self.observer = Observer(
            self.store, self.config, workers=self.gateway.workers, gateway_dir=self.paths.gateway,
            public_url=lambda: self.gateway.address, visitor=lambda: self.gateway.probe, outside=lambda: self.outlook.outside(), on_change=self._changed,
            workspace=str(self.paths.root), alert_source=self.alert_source,
        )  # fmt: skip
        plans = PlanKeeper(
            self.store, self.config, self.paths.rollback, self.runtime.replicas,
            admin_sockets=lambda: [path for _, path in self.gateway.workers()], in_cluster=self.runtime.way_back,
        )  # fmt: skip
        self.world = World(self.store, self.runtime, self.router, self.config, plans)
        self.prometheus = prometheus_of(self.config, self.paths.root)
        self.probe = MetricsProbe(self.config, self.prometheus, self.store)
        self.controller = Controller(
            self.store, self.world, self.prometheus or self.observer.metrics, self.config, self._changed, asyncio.Event(),
            Copies(self.paths.gateway).pairs,
        )  # fmt: skip
        self.hooks = HookSender(self.store, self.config.hook, self.config.workspace.get("name", self.paths.root.name))
        self.file = FileWatch(self.store, self.config, self.paths.root)
        self.scaler = Scaler(self.store, self.config, self.runtime.replicas, self._scaled)
        self.runner = PipelineRunner(
            self.store, self.spawner, self.paths, registry_socket=self.registry.socket,
            on_change=lambda ref: self._changed(ref, ""),
        )  # fmt: skip
        self.restored = Restored(
            self.store, self.table, self.spawner, lambda model: self.reader.registry_aliases(model)
        )
        self.triggers = Triggers(
            self.store, self.config, self.runner, self.paths.root, is_held=lambda: self.restored.is_open
        )
        self.chain = ChainKeeper(self.store)
        self.chain.begin()
        self.outlook = Outlook(
            self.config, self.store, self.supervisor, self.table, self.clusters, self.registry, self.queue,
            self.alias_watch, self.prometheus, self.alert_source, self.observer, self.backups, self.file, self.chain,
        )  # fmt: skip
        self.reader = Reader(
            self.store, self.config, self.paths, self.supervisor, self.gateway, self.observer, self.events,
            adapters=lambda: self.outlook.adapters(), version=package_version("airboss"), pid=os.getpid(), started_at=time.time(),
            chain=self.chain, registry=self.registry.client, load=self.scaler.watcher,
            backup=self.backups.fact, restored=self.restored, standings=lambda: self.outlook.standings(), through=self.registry.through,
            metric=MetricQueries(self.config, self.prometheus), probe=self.probe, triggers=self.triggers,
            pod_logs=self.runtime.logs,
        )  # fmt: skip
        self.desk = Desk(
            self.store, self.config, self.controller, self.runner, self.observer.book, self.paths.root,
            self._changed, self.stop, self.restored, lambda: self.gateway.address, self.reader.catalogue,
        )  # fmt: skip
        self._republish = asyncio.Event()

    def _alert_source(self) -> Alertmanagers | None:
        settings = self.config.alerts
        who = Credentials.of(settings.alertmanager_access, self.paths.root)
        return Alertmanagers(settings.alertmanager, who) if settings.alertmanager else None

    def stop(self, drains: bool = False) -> None:
        """End `serve`; with `drains`, end everything it serves too."""
        self._drains = self._drains or drains
        self._stopping.set()

    async def serve(self) -> None:
        """Recover, then run every loop until stopped. Children live on unless drained."""
        await self.gateway.start()
        await self.table.recover()
        for name, runtime in self.runtime.clusters.items():
            runtime.last_served = served_by(kept_table(self.paths.gateway), name)
        await import_spill(self.store, self.paths.state / "spill", self.config)
        await self.restored.begin(self.paths.state / MARKER)
        await self.world.recover()
        if not self.restored.is_open:
            await self.supervisor.end_strays(("model", "gateway"), STRAY_GRACE_S)
        if any(child.spec.kind == "registry" for child in self.spawner.living().values()):
            await self.registry.adopt()
        await self.runner.resume_all()
        await rehearse(self.store, self.world)
        api = uvicorn.Server(
            uvicorn.Config(
                make_app(self.reader, self.desk), http=PeerProtocol, log_config=None, access_log=False,
                lifespan="off", timeout_graceful_shutdown=2,
            )
        )  # fmt: skip
        loops = [
            asyncio.create_task(self._guard(work, name), name=name)
            for name, work in (
                ("controller", self.controller.run()),
                ("autoscaler", self.scaler.run()),
                ("hooks", self.hooks.run()),
                ("registry", self.queue.run()),
                ("observer", self.observer.run()),
                ("metrics probe", self.probe.run()),
                ("triggers", self._forever(TRIGGER_LOOK_S, self.triggers.turn)),
                *self._watch(),
                ("router", self._keep_published()),
                *((f"cluster {name}", cluster.run()) for name, cluster in self.clusters.items()),
                ("spill", self._forever(SPILL_S, self._import_spill)),
                ("config", self._forever(FILE_LOOK_S, self.file.turn)),
                ("chain", self.chain.run()),
                ("lease", self._forever(LEASE_LOOK_S, self._check_lease)),
                ("backups", self._forever(BACKUP_LOOK_S, self.backups.turn)),
                ("api", api.serve(sockets=[self.listener])),
            )
        ]
        await self.store.write(
            lambda s: audit.append(s, actor="system:engine", action="engine.up", ref="engine:engine")
        )
        log.info("engine up: pid %d, gateway %s", os.getpid(), self.gateway.address)
        await self._stopping.wait()
        api.should_exit = True
        await self._close(loops)

    def _watch(self) -> tuple[tuple[str, Coroutine[Any, Any, None]], ...]:
        every_s = self.config.registry.watch
        return (("aliases", self._forever(every_s, self.alias_watch.turn)),) if every_s else ()

    async def _import_spill(self) -> None:
        if await import_spill(self.store, self.paths.state / "spill", self.config):
            await self.table.recover()
            self._republish.set()

    async def _check_lease(self) -> None:
        if self.store.database.lost:
            log.error("%s: the engine ends", self.store.database.lost)
            self.stop()

    async def _forever(self, seconds: float, turn: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await turn()
            except Exception:
                log.exception("%s met trouble; it is tried again", getattr(turn, "__name__", "a loop"))

    async def _close(self, loops: list[asyncio.Task[None]]) -> None:
        for task in loops[:-1]:
            task.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
        await self.runner.close()
        if self._drains:
            await self._drain()
        await self.supervisor.detach()
        if not self.store.database.lost:
            await self.store.write(self._goes_down)

    def _goes_down(self, session: Session) -> None:
        facts = {"drained": self._drains}
        audit.append(session, actor="system:engine", action="engine.down", ref="engine:engine", detail=facts)

    async def _drain(self) -> None:
        """Traffic before capacity: the gateway first, then the model servers, then the registry."""
        await self.gateway.drain()
        for kind in ("model", "registry"):
            await asyncio.gather(*(self.supervisor.unwant(p.slot.owner, 20.0) for p in self.supervisor.of(kind)))

    async def _guard(self, work: Coroutine[Any, Any, None], name: str) -> None:
        try:
            await work
        except asyncio.CancelledError:
            raise
        except Exception:
            # A loop that died leaves the engine lame: better to end, so that whoever supervises it starts a whole one.
            log.exception("the %s loop died; the engine stops", name)
            self.stop()

    async def _keep_published(self) -> None:
        while True:
            await self._republish.wait()
            self._republish.clear()
            try:
                await self.table.republish()
            except Exception:
                log.exception("the table could not be published; it is tried again at the next change")

    def _place_changed(self, owner: str) -> None:
        self._republish.set()
        self.controller.wake.set()
        self._changed(f"serving/{owner}", "")

    def _pods_changed(self) -> None:
        self._republish.set()
        self.controller.wake.set()

    def _scaled(self, ref: str, message: str) -> None:
        self.controller.wake.set()
        self._changed(ref, message)

    def _changed(self, ref: str, message: str) -> None:
        self.events.publish(ref, message)
