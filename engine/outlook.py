"""What an engine says of the systems around it: for `status`, for alerts, for `doctor`. It reads what is known and asks nobody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from adapters.alertmanager import Alertmanagers
from adapters.guard import Standing
from adapters.kubernetes.cluster import Cluster
from adapters.local.router import LocalRouter
from adapters.local.supervisor import Supervisor
from adapters.prometheus import PrometheusMetrics
from engine.backups import BackupKeeper
from engine.chain_keeper import ChainKeeper
from engine.observe.conditions import AdapterFact, CrashLoopFact
from engine.observe.observer import Observer, Outside
from engine.operations.git_check import git_facts
from engine.people.governing import FileWatch
from engine.registry import RegistryHost
from engine.registry_watch import AliasWatch
from engine.rollouts.registry_queue import RegistryQueue
from state.config import Config
from state.store import Store


@dataclass(frozen=True, slots=True)
class Outlook:
    """The parts of one engine that deal with the outside. `prometheus`, `alert_source`: None where they are embedded."""

    config: Config
    store: Store
    supervisor: Supervisor
    table: LocalRouter
    clusters: Mapping[str, Cluster]
    registry: RegistryHost
    queue: RegistryQueue
    alias_watch: AliasWatch
    prometheus: PrometheusMetrics | None
    alert_source: Alertmanagers | None
    observer: Observer
    backups: BackupKeeper
    file: FileWatch
    chain: ChainKeeper

    def adapters(self) -> dict[str, str]:
        """System → where it is, or what is wrong with it."""
        return {
            "registry": self._registry_trouble() or self.registry.state(),
            "metrics": (self.prometheus.trouble or self.prometheus.url) if self.prometheus else "embedded",
            "alerts": self._alerts(),
            "state": self.store.database.name,
            "config": self.file.said,
            **{f"cluster of {name}": cluster.said() for name, cluster in self.clusters.items()},
        }

    def standings(self) -> tuple[Standing, ...]:
        """How each system that is asked over a guard has answered lately."""
        metrics = (self.prometheus.guard.standing(),) if self.prometheus is not None else ()
        peers = self.alert_source.standings() if self.alert_source is not None else ()
        return (self.registry.guard.standing(), *metrics, *peers)

    def outside(self) -> Outside:
        """What alerts are raised from that no counter shows."""
        chain, metrics = self.chain.state, self.prometheus
        return Outside(
            crash_loops=self._crash_loops(),
            adapters=(
                AdapterFact("registry", self._registry_trouble()),
                *((AdapterFact("metrics", metrics.trouble),) if metrics is not None else ()),
                *(AdapterFact(f"cluster of {name}", c.trouble) for name, c in self.clusters.items()),
            ),
            drifts=self.alias_watch.drifts,
            kept_in_git=git_facts(self.clusters),
            audit_trouble=self.store.anchor_trouble or ("" if chain.is_whole else chain.why),
            backup_trouble=self.backups.fact().trouble,
        )

    def _registry_trouble(self) -> str:
        return self.queue.trouble or self.registry.guard.standing().error

    def _alerts(self) -> str:
        peers = self.observer.peers
        if peers is None:
            return "the engine's own"
        down = [fact.error for fact in peers.facts()]
        return "; ".join(down) or ", ".join(self.config.alerts.alertmanager)

    def _crash_loops(self) -> tuple[CrashLoopFact, ...]:
        loops = []
        for place in self.supervisor.of("model"):
            reason = self.supervisor.crash_loop(place.slot.owner)
            if reason:
                slot = place.slot
                # A release that no track serves yet is a canary being prepared.
                track = self.table.track_of(slot.service, slot.env, slot.release_id) or "canary"
                loops.append(CrashLoopFact(slot.service, slot.env, slot.release_id, reason, track))
        return tuple(loops)
