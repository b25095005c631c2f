"""The observer: the loops that watch the service, in one object that the engine starts.

Every loop goes on whatever one turn of it meets; what it met is a recorded fact (`status`), and an alert while it lasts.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from adapters.local.probing import Visitor
from adapters.ports import AlertSource
from engine.observe import budgets, drift
from engine.observe.alerts import CLEAR_FOR_S, AlertBook
from engine.observe.conditions import AdapterFact, CrashLoopFact, DriftFact, Facts, GitFact
from engine.observe.drift import DriftWatch
from engine.observe.evidence import EmbeddedMetrics
from engine.observe.facts import glass_facts, probe_targets, rolled_back_in_git, rollout_facts
from engine.observe.heartbeat import Beat, Heartbeat
from engine.observe.lifecycle import AlertRecord, Changes
from engine.observe.minutes import Promise, read_status
from engine.observe.notify import Notifier
from engine.observe.peers import Peers
from engine.observe.prober import Prober, ProbeTarget
from engine.observe.rates import Rates
from engine.observe.rules import firing
from engine.observe.scrape_status import SILENT_AFTER_S, ScrapeStatus
from engine.observe.scraper import Fetch, Scraper, Worker
from engine.observe.slo import SloStatus
from state.config import Config
from state.store import Store

log = logging.getLogger("airboss.observe")

LOOP_TROUBLE_AFTER = 3
"""Turns in a row that a loop must fail before it is an alert."""
WELL_WITHIN_S = 15.0
"""The heart beats only if the scraper has made a turn this lately."""
GATEWAY_DOWN_AFTER_S = 5.0
TARGETS_EVERY_S = 2.0


@dataclass(frozen=True, slots=True)
class Intervals:
    """Seconds between the turns of each loop."""

    scrape_s: float = 1.0
    probe_s: float = 0.25
    slo_s: float = 10.0
    alerts_s: float = 2.0
    notify_s: float = 2.0
    heartbeat_s: float = 1.0
    prune_s: float = 60.0
    drift_s: float = 30.0
    peers_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Outside:
    """What the observer cannot see by itself and the engine tells it: adapters with their trouble ("" = up)."""

    crash_loops: tuple[CrashLoopFact, ...] = ()
    adapters: tuple[AdapterFact, ...] = ()
    drifts: tuple[DriftFact, ...] = ()
    kept_in_git: tuple[GitFact, ...] = ()
    audit_trouble: str = ""
    backup_trouble: str = ""


@dataclass(frozen=True, slots=True)
class LoopStatus:
    """How a loop runs: when its last good turn ended, how many failed in a row, and why."""

    name: str
    turned_at: float | None = None
    failures_in_row: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class ObserverStatus:
    """The observer's own health."""

    loops: tuple[LoopStatus, ...]
    scrape: ScrapeStatus
    beat: Beat
    tells_somebody: bool


class Observer:
    """Evidence, service levels, alerts, notification, probing. `run()` until cancelled; the rest answers at once.

    `workers` lists the living gateway workers, `public_url` is the gateway's address ("" or None while there is none);
    `visitor` says how the prober comes in there; all three are asked anew each turn and must not block.
    """

    def __init__(
        self,
        store: Store,
        config: Config,
        *,
        workers: Callable[[], Sequence[Worker]],
        gateway_dir: Path,
        public_url: Callable[[], str | None],
        visitor: Callable[[], Visitor] = Visitor,
        outside: Callable[[], Outside] = Outside,
        on_change: Callable[[str, str], None] = lambda ref, message: None,
        workspace: str = "",
        clock: Callable[[], float] = time.time,
        fetch: Fetch | None = None,
        intervals: Intervals | None = None,
        clear_for_s: float = CLEAR_FOR_S,
        alert_source: AlertSource | None = None,
    ) -> None:
        self._store = store
        self._config = config
        self._outside = outside
        self._on_change = on_change
        self._clock = clock
        self._intervals = intervals or Intervals()
        longest_s = max((s.slo.window_d for s in config.service.values()), default=28.0) * 86_400
        self.scraper = Scraper(
            store, workers, gateway_dir, fetch=fetch, clock=clock, keep_minutes_s=longest_s + 7 * 86_400
        )
        self.metrics = EmbeddedMetrics(store, self.scraper, clock)
        self.book = AlertBook(store, clock=clock, clear_for_s=clear_for_s)
        self.prober = Prober(store, public_url, self._targets, clock=clock, visitor=visitor)
        self.notifier = Notifier(self.book, config.alerts, workspace=workspace, clock=clock)
        self.peers = Peers(store, self.book, alert_source, workspace, clock=clock) if alert_source is not None else None
        self.heartbeat = Heartbeat(
            config.alerts.heartbeat_url, config.alerts.heartbeat_interval, self._is_well, clock=clock
        )
        self.drift = DriftWatch(store, config, gateway_dir)
        self._slos: dict[tuple[str, str], SloStatus] = {}
        self._routed: tuple[ProbeTarget, ...] = ()
        self._routed_at = -TARGETS_EVERY_S
        self._loops: dict[str, LoopStatus] = {}

    async def run(self) -> None:
        """Run every loop until cancelled."""
        every = self._intervals
        turns: tuple[tuple[str, float, Callable[[], Awaitable[object]]], ...] = (
            ("scrape", every.scrape_s, self.scraper.tick),
            ("probe", every.probe_s, self.prober.tick),
            ("slo", every.slo_s, self.refresh_slos),
            ("alerts", every.alerts_s, self.judge_alerts),
            ("notify", every.notify_s, self.notifier.tick),
            ("heartbeat", every.heartbeat_s, self.heartbeat.tick),
            ("prune", every.prune_s, self.scraper.prune),
            ("drift", every.drift_s, lambda: self.drift.look(self._clock())),
        )
        if self.peers is not None:
            turns += (
                ("alertmanager", every.peers_s, self.peers.align),
                ("tell alertmanager", every.notify_s, self.peers.tell),
            )
        try:
            async with asyncio.TaskGroup() as group:
                for name, seconds, turn in turns:
                    group.create_task(self._loop(name, seconds, turn), name=f"observe-{name}")
        finally:
            await self.prober.close()
            await self.scraper.close()
            self.notifier.close()
            if self.peers is not None:
                await self.peers.close()

    def rates(self, service: str, env: str, window_s: float = 60.0) -> Rates:
        """What the service does now: requests/s, p95, error ratio, each also by track, over the last `window_s`."""
        return self.scraper.recent.rates(service, env, self._clock(), window_s)

    def rate_series(self, service: str, env: str, points: int = 30, step_s: float = 2.0) -> tuple[float, ...]:
        """Requests per second, newest last, a point every `step_s`."""
        return self.scraper.recent.series(service, env, self._clock(), points, step_s)

    def slo_status(self, service: str, env: str) -> SloStatus | None:
        """How the service's objectives stood at the last look; None before the first."""
        return self._slos.get((service, env))

    def slos(self) -> tuple[SloStatus, ...]:
        """Every service in every environment where something was ever known."""
        return tuple(self._slos[key] for key in sorted(self._slos))

    def alerts(self) -> tuple[AlertRecord, ...]:
        """The alerts that hold now."""
        return self.book.active()

    def costs(self) -> tuple[drift.Cost, ...]:
        """What requests cost now, of services whose replicas have a price."""
        return drift.costs(self._config, self.scraper.recent, self._clock())

    def status(self) -> ObserverStatus:
        """The observer's own health."""
        return ObserverStatus(
            loops=tuple(self._loops.values()),
            scrape=self.scraper.status(),
            beat=self.heartbeat.last,
            tells_somebody=self.notifier.tells_somebody or self.peers is not None,
        )

    async def refresh_slos(self) -> None:
        """Read how every promise stands."""
        for service, settings in self._config.service.items():
            for env in self._config.environment:
                ask = partial(read_status, promise=Promise(service, env, settings.slo), now=self._clock())
                status = await self._store.read(ask)
                if status.elapsed_s > 0 or (service, env) in self._slos:
                    self._slos[(service, env)] = status
        await self._freeze_what_is_spent()

    async def _freeze_what_is_spent(self) -> None:
        now = self._clock()
        frozen = {name for name, settings in self._config.service.items() if settings.slo.freeze_when_spent}
        wanted = budgets.spent(status for status in self.slos() if status.service in frozen)
        if budgets.is_due(wanted, await self._store.read(lambda s: budgets.in_force(s, now)), now):
            await self._store.write(lambda s: budgets.align(s, wanted, now))

    async def judge_alerts(self) -> Changes:
        """Gather the facts, apply the rules, write what changed."""
        changes = await self.book.apply(firing(await self.facts()))
        for word, moved in (("firing", changes.raised), ("resolved", changes.resolved)):
            for held in moved:
                log.log(logging.WARNING if word == "firing" else logging.INFO, "%s %s: %s", held.firing.name, word,
                        held.firing.summary)  # fmt: skip
                self._on_change(f"alert/{held.firing.fingerprint}", f"{held.firing.name} {word}: {held.firing.summary}")
        return changes

    async def facts(self) -> Facts:
        """What the rules look at, now."""
        now, outside = self._clock(), self._outside()
        rollouts = await self._store.read(lambda session: rollout_facts(session, self.scraper.recent, now))
        glasses = await self._store.read(glass_facts)
        return Facts(
            now=now,
            slos=self.slos(),
            probes=self.prober.facts(),
            rollouts=rollouts,
            glasses=glasses,
            crash_loops=outside.crash_loops,
            drifts=outside.drifts,
            kept_in_git=await self._store.read(lambda s: rolled_back_in_git(s, outside.kept_in_git)),
            adapters=(*outside.adapters, *self._own_adapters(now)),
            # A gateway that nobody is routed through yet may be missing.
            gateway_trouble=self.scraper.status().trouble(now, GATEWAY_DOWN_AFTER_S) if self._routed else "",
            audit_trouble=outside.audit_trouble,
            backup_trouble=outside.backup_trouble,
            someone_is_paged=self.notifier.tells_somebody or self.peers is not None,
            own=tuple(drift.firing(self.drift.drifts, self.costs())),
            outside=self.peers.firing() if self.peers is not None else (),
            rates_are_theirs=self._config.alerts.evaluate == "prometheus",
        )

    def _own_adapters(self, now: float) -> list[AdapterFact]:
        found = [
            AdapterFact(f"observe {loop.name}", loop.error if loop.failures_in_row >= LOOP_TROUBLE_AFTER else "")
            for loop in self._loops.values()
        ]
        for worker in self.scraper.status().workers:
            is_silent = worker.silent_since is not None and now - worker.silent_since >= SILENT_AFTER_S
            found.append(AdapterFact(f"gateway worker {worker.spawn_id}", worker.error if is_silent else ""))
        return found + (self.peers.facts() if self.peers is not None else [])

    async def _targets(self) -> Sequence[ProbeTarget]:
        if time.monotonic() - self._routed_at >= TARGETS_EVERY_S:
            self._routed = await self._store.read(lambda session: probe_targets(session, self._config))
            self._routed_at = time.monotonic()
        return self._routed

    def _is_well(self) -> bool:
        ticked_at = self.scraper.status().ticked_at
        return ticked_at is not None and abs(self._clock() - ticked_at) <= WELL_WITHIN_S

    async def _loop(self, name: str, seconds: float, turn: Callable[[], Awaitable[object]]) -> None:
        self._loops[name] = LoopStatus(name)
        while True:
            began = time.monotonic()
            try:
                await turn()
                self._loops[name] = LoopStatus(name, turned_at=self._clock())
            except Exception as error:
                before = self._loops[name]
                said = f"{type(error).__name__}: {error}"
                self._loops[name] = LoopStatus(name, before.turned_at, before.failures_in_row + 1, said)
                if said != before.error:
                    log.exception("the %s loop met trouble; it goes on", name)
            await asyncio.sleep(max(0.0, seconds - (time.monotonic() - began)))
