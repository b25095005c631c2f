"""The real store, controller, world, router and registry queue, with gateways, replicas and a registry that are values.

Time is virtual. The engine may be killed at every point of its journal: before and after each commit, each table given to
a gateway worker, each change of replicas, each word to the registry. A restart makes all of it anew over the same store
and the same world; nothing else of the engine is kept.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from machine_things import Routed, Scaled
from outside import Gateway, Outside, VirtualTime, weights_of
from sqlalchemy import event as sql_event
from sqlmodel import Session, select

from adapters.local.router import LocalRouter
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
        gateway: Any = Gateway(self.outside, self.outside.gateway_dir)
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


def begin_anew(store: Store) -> None:
    """The store is what the template is."""
    template = store.path.with_name("template.db")
    with closing(sqlite3.connect(template)) as source, closing(sqlite3.connect(store.path)) as target:
        source.backup(target)
    store.path.with_name("audit.head").unlink(missing_ok=True)


@contextmanager
def room(store: Store, crash_at: int) -> Iterator[Room]:
    begin_anew(store)
    time = VirtualTime()
    outside = Outside(store.path.parent, time, crash_at=crash_at)
    with pytest.MonkeyPatch.context() as patch:
        time.install(patch)
        with_points(patch, store, outside)
        yield Room(store, outside)
