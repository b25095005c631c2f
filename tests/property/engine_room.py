"""The real store, controller, world, router and registry queue, with gateways, replicas and a registry that are values.

Time is virtual. The engine may be killed at every point of its journal: before and after each commit, each table given to
a gateway worker, each change of replicas, each word to the registry. A restart makes all of it anew over the same store
and the same world; nothing else of the engine is kept.
"""

from __future__ import annotations

import asyncio
import types
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from machine_things import Crash, Happened, Routed, Scaled
from sqlalchemy import event as sql_event
from sqlmodel import Session, select

from adapters.local.router import LocalRouter
from adapters.ports import ArmCounts, ArmEvidence, Interval, ReplicaSetSpec, ReplicaStatus
from engine.rollouts import journal, planning, records
from engine.rollouts.back import targets
from engine.rollouts.back.keeping import PlanKeeper
from engine.rollouts.controller import Controller
from engine.rollouts.registry_queue import RegistryQueue
from engine.rollouts.world import World
from state import audit
from state.config import Config, parse_config
from state.models import Audit, Intent, Release, Rollout, RolloutStep, TrackState, VerdictRecord
from state.store import Store
from state.words import IntentState, Lifecycle, RolloutState

S = RolloutState
SERVICE, ENV = "chat", "production"
CONFIG = """
[service.chat]
slo = { availability = 90.0, latency_p95_ms = 5000, latency_share = 90.0, window_d = 1 }
[environment.production]
policy = "quick"
[policy.quick]
steps = [{ weight = 25 }, { weight = 100 }]
judge = { min_requests = 20 }
approvals = 0
warm_hold = "20s"
"""
MODULES_WITH_CLOCKS = ("engine.rollouts.journal", "engine.rollouts.records", "engine.rollouts.planning", "state.clock")


class VirtualTime:
    """The `time` of the modules that the machine's clocks come from."""

    def __init__(self) -> None:
        self.utc, self.mono = 1_790_000_000.0, 1000.0

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Stand in for `time` in the modules that ask it for rollouts."""
        stand_in = types.SimpleNamespace(time=lambda: self.utc, monotonic=lambda: self.mono)
        for name in MODULES_WITH_CLOCKS:
            patch.setattr(f"{name}.time", stand_in)

    def passes(self, seconds: float) -> None:
        """Both clocks go on."""
        self.utc, self.mono = self.utc + seconds, self.mono + seconds


@dataclass
class Outside:
    """What a killed engine leaves behind: gateway workers, replicas, the registry; and the points it dies at."""

    gateway_dir: Path
    time: VirtualTime
    tables: list[dict[str, Any]] = field(default_factory=lambda: [{}, {}])
    specs: dict[str, ReplicaSetSpec] = field(default_factory=dict)
    aliases_: dict[str, str] = field(default_factory=dict)
    stages: dict[str, str] = field(default_factory=dict)
    happened: list[Happened] = field(default_factory=list)
    crash_at: int = 0
    points: list[str] = field(default_factory=list)
    meant: dict[str, int] = field(default_factory=dict)

    def point(self, name: str) -> None:
        """The engine has come to `name`; it ends here if this is the one."""
        self.points.append(name)
        if len(self.points) == self.crash_at:
            raise Crash(name)

    # The gateway, as the local router sees it.

    async def put(self, table: Mapping[str, Any]) -> None:
        """Give every worker the table."""
        for index in range(len(self.tables)):
            self.point(f"before worker {index}'s table")
            before, after = weights_of(self.tables[index]), weights_of(table)
            self.happened.append(Routed(before, after, dict(self.meant), frozenset(self.running())))
            self.tables[index] = dict(table)
            self.point(f"after worker {index}'s table")
        self.meant = weights_of(table)

    async def tables_(self) -> list[dict[str, Any]]:
        """What every worker has."""
        return [dict(table) for table in self.tables]

    # The runtime.

    def running(self) -> list[str]:
        """Releases with replicas."""
        return [name for name, spec in self.specs.items() if spec.replicas]

    async def ensure(self, spec: ReplicaSetSpec, *, allow_faults: bool = False) -> None:
        """Have the replicas; they are ready at once."""
        before = self.specs[spec.release_id].replicas if spec.release_id in self.specs else 0
        if before != spec.replicas:
            self.point(f"before {spec.replicas} of {spec.release_id}")
            weights = tuple(weights_of(table) for table in self.tables)
            self.happened.append(Scaled(spec.release_id, before, spec.replicas, weights, True))
        self.specs[spec.release_id] = spec
        if before != spec.replicas:
            self.point(f"after {spec.replicas} of {spec.release_id}")

    def replicas(self, service: str, env: str) -> list[ReplicaStatus]:
        """Every replica there."""
        return [
            ReplicaStatus(f"{name}-{n}", service, env, name, spec.digest, n, f"unix:/{name}", 1, True, True, 0)
            for name, spec in self.specs.items()
            for n in range(spec.replicas)
        ]

    async def probe(self, spec: ReplicaSetSpec) -> str | None:
        """Every replica generates its token."""
        return None

    def crash_loop(self, service: str, env: str, release_id: str) -> str | None:
        """None of them dies."""
        return None

    # The metrics source: a clean canary, whatever is asked.

    async def arms(self, service: str, env: str, rollout_id: str, table_revision: int, since: float) -> ArmEvidence:
        """Enough of good requests on both arms."""
        now = self.time.utc
        counts = Interval(now - 1.0, now, ArmCounts(4000), ArmCounts(2000))
        return ArmEvidence((counts,) if now > since else (), 0.0, 0.0)

    # The registry.

    def aliases(self, model_name: str) -> Mapping[str, str]:
        """alias → version."""
        return dict(self.aliases_)

    def set_alias(self, model_name: str, alias: str, version: str) -> None:
        """Point an alias at a version."""
        self.point(f"before the alias {alias}")
        self.aliases_[alias] = version
        self.point(f"after the alias {alias}")

    def drop_alias(self, model_name: str, alias: str) -> None:
        """Take an alias away."""
        self.aliases_.pop(alias, None)

    def tag(self, model_name: str, version: str, tags: Mapping[str, str]) -> None:
        """Say a version's stage."""
        self.point(f"before a tag of version {version}")
        self.stages[version] = tags.get("airboss.stage", self.stages.get(version, ""))

    def close(self) -> None:
        """Nothing is held open."""


@dataclass(frozen=True)
class _Gateway:
    """The two calls the router makes, under the names it makes them."""

    outside: Outside
    gateway_dir: Path

    async def put(self, table: Mapping[str, Any]) -> None:
        """As the gateway has it."""
        await self.outside.put(table)

    async def tables(self) -> list[dict[str, Any]]:
        """As the gateway has it."""
        return await self.outside.tables_()


class _Watched(Controller):
    """The controller, which shows each effect's intent before it has it (I3)."""

    async def _effect(self, seen: records.Opened, intent: journal.PendingIntent) -> Mapping[str, Any]:
        wanted = await self.store.read(lambda s: journal.pending(s, ("scale", "route"), seen.now.id))
        assert intent.id in [one.id for one in wanted], f"I3: {intent.effect} without an intent"
        return await super()._effect(seen, intent)


class Room:
    """One engine over `store` and `outside`; `restart` makes another."""

    def __init__(self, store: Store, outside: Outside) -> None:
        self.store, self.outside = store, outside
        self.config: Config = parse_config(CONFIG, Path("airboss.toml"))
        self._make()

    def _make(self) -> None:
        gateway: Any = _Gateway(self.outside, self.outside.gateway_dir)
        runtime: Any = self.outside
        self.router = LocalRouter(self.store, gateway, runtime, self.config)
        plans = PlanKeeper(self.store, self.config, self.outside.gateway_dir, self.outside.replicas, lambda: ())
        self.world = World(self.store, self.outside, self.router, self.config, plans)
        self.controller = _Watched(
            self.store, self.world, self.outside, self.config, lambda ref, message: None, asyncio.Event()
        )
        self.queue = RegistryQueue(self.store, self._registry, lambda ref, message: None)

    async def _registry(self) -> Any:
        return self.outside

    async def restart(self) -> None:
        """Another engine: it reads the world, has again what is wanted, and publishes what the tracks say."""
        self._make()
        await self.router.recover()
        await self.world.recover()
        await self.router.republish()

    async def look(self) -> None:
        """One round of every loop."""
        for rollout_id in await self.store.read(records.active_ids):
            await self.controller.tick(rollout_id)
        await self.controller.finish_effects()
        await self.world.retire()
        await self.queue._turn()

    async def deploy(self, release_id: str) -> None:
        """A person's `deploy`."""
        wish = planning.Wish(SERVICE, ENV, release_id)
        policy = planning.policy_for(self.config, wish)

        def make(session: Session) -> str:
            stable = planning.check_deploy(session, self.config, wish)
            return planning.create_rollout(session, wish, stable, policy, actor="user:ann", reason="")

        await self.store.write(make)

    async def roll_back(self) -> None:
        """A person's `rollback`: of the active rollout, or of what is live."""
        active = await self.store.read(records.active_ids)
        if active:
            await self.controller.verb(active[0], "rollback", "user:ann", "it looks wrong", None)
            await asyncio.gather(*self.controller._going.values())  # the traffic is returned beside the loop
            return

        def make(session: Session) -> str:
            target = targets.rollback_target(session, SERVICE, ENV, None)
            return planning.create_rollback(session, self.config, SERVICE, ENV, target, actor="user:ann", reason="")

        await self.store.write(make, urgent=True)

    # What must hold.

    def assert_invariants(self) -> None:
        """I1, I2, I5, I6, I10, I12 and I13, read from the store and the world as they are now."""
        self.store.read_now(self._rows_hold)
        for event in self.outside.happened:
            if isinstance(event, Routed):
                assert sum(event.after.values()) in (0, 100), f"I5: {event.after}"
                for name, weight in event.after.items():
                    rises = weight > max(event.before.get(name, 0), event.meant.get(name, 0))
                    assert not rises or name in event.answered, f"I5: {event}"
            elif isinstance(event, Scaled) and not event.after:
                assert not any(weights.get(event.release_id) for weights in event.weights), f"I5: {event}"
        self.outside.happened.clear()

    def _rows_hold(self, session: Session) -> None:
        rows = list(session.exec(select(Rollout)))
        assert sum(not S(row.state).is_terminal for row in rows) <= 1, "I1"
        for row in rows:
            path = moves_of(session, row.id)
            assert [d["revision"] for d in path] == list(range(2, row.revision + 1)), f"I2: {path}"
            assert all(a["to"] == b["from"] for a, b in pairwise(path)), f"I2: {path}"
            ahead = S(row.state) in (S.STEP_APPLYING, S.STEP_BAKING, S.PROMOTING, S.VERIFYING)
            is_warm = row.state == S.COMPLETED and (row.warm_until or 0) > self.outside.time.utc
            if row.from_release and (ahead or is_warm):
                assert row.from_release in self.outside.running(), f"I13: {row.from_release} in {row.state}"
        for name, spec in self.outside.specs.items():
            release = session.get(Release, name)
            assert release is not None and spec.digest == release.digest, f"I6: {name}"
        used = Counter((v.rollout_id, v.step) for v in session.exec(select(VerdictRecord)) if v.consumed)
        assert all(count == 1 for count in used.values()), f"I12: {used}"
        chain = audit.verify(session, self.store.path.with_name("audit.head"))
        assert chain.is_whole, f"I10: {chain.why}"

    def what_there_is(self) -> dict[str, Any]:
        """The world and the record, without times: what must be the same with and without a crash."""
        outside = self.outside

        def read(session: Session) -> dict[str, Any]:
            rows = session.exec(select(Rollout).order_by(Rollout.id))
            return {
                "rollouts": [(r.id, r.state, r.step, r.from_release, r.to_release, r.registry_sync) for r in rows],
                "paths": {r.id: [(d["to"], d["step"]) for d in moves_of(session, r.id)] for r in session.exec(select(Rollout))},
                "tracks": sorted((t.track, t.release_id, t.weight) for t in session.exec(select(TrackState))),
                "steps": sorted((s.rollout_id, s.idx, s.weight, s.state) for s in session.exec(select(RolloutStep))),
                "releases": sorted((r.id, r.lifecycle) for r in session.exec(select(Release))),
                "open": [i.key for i in session.exec(select(Intent)) if i.state == IntentState.PENDING],
            }  # fmt: skip

        found = self.store.read_now(read)
        found |= {"weights": [weights_of(table) for table in outside.tables], "running": sorted(outside.running())}
        return found | {"aliases": dict(outside.aliases_), "stages": dict(outside.stages)}


def moves_of(session: Session, rollout_id: str) -> list[dict[str, Any]]:
    """The state changes of a rollout after its first row, by its audit rows."""
    rows = session.exec(select(Audit).where(Audit.ref == f"rollout:{rollout_id}").order_by(Audit.id))
    return [row.detail for row in rows if "revision" in row.detail and "to" in row.detail]


def weights_of(table: Mapping[str, Any]) -> dict[str, int]:
    """release → weight in a gateway's table."""
    return {b["release_id"]: b["weight"] for r in table.get("routes", ()) for b in r["backends"] if b["weight"]}


def make_template(path: Path) -> None:
    """A store with three releases, none live."""
    store = Store.open(path)

    def fill(session: Session) -> None:
        for number, name in enumerate(("a", "b", "c"), start=1):
            session.add(
                Release(id=name, service=SERVICE, lifecycle=Lifecycle.DEVELOPMENT, model_name="m", model_version=str(number),
                        digest=f"sha256:{name}", bundle_path=str(path.parent), created_by="user:ann", created_at=0.0)
            )  # fmt: skip

    store.write_now(fill)
    store.close()
    path.with_name("reserve").unlink(missing_ok=True)


JOURNAL = ("Rollout", "Intent", "TrackState")


@sql_event.listens_for(Session, "after_flush")
def _remember(session: Session, _context: object) -> None:
    rows = (*session.new, *session.dirty, *session.deleted)
    session.info.setdefault("touched", set()).update(type(row).__name__ for row in rows)


def with_points(patch: pytest.MonkeyPatch, store: Store, outside: Outside) -> None:
    """Have a point in the store before and after each commit that touches a rollout, an intent or a track."""
    once = store._once

    def noted(fn: Callable[[Session], Any]) -> Any:
        touched: list[str] = []

        def work(session: Session) -> Any:
            value = fn(session)
            session.flush()
            touched.extend(sorted(session.info.pop("touched", set()) & set(JOURNAL)))
            if touched:
                outside.point(f"before the commit of {', '.join(touched)}")
            return value

        value = once(work)
        if touched:
            outside.point(f"after the commit of {', '.join(touched)}")
        return value

    async def read(fn: Callable[[Session], Any]) -> Any:
        return store.read_now(fn)

    async def write(fn: Callable[[Session], Any], *, urgent: bool = False) -> Any:
        value, heads = store._transact(fn, urgent=urgent)
        if heads is not None:
            store._anchor(*heads)
        return value

    # In the caller's thread: nothing runs beside it, so that each point is the same one every time.
    for name, stand_in in (("_once", noted), ("read", read), ("write", write)):
        patch.setattr(store, name, stand_in)
