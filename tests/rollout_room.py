"""The real store, controller, router and door for verbs; the gateway's workers, the replicas and the counts are values."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from sqlmodel import Session, select

from adapters.local.gateway import LocalGateway
from adapters.local.router import LocalRouter
from adapters.local.runtime import LocalRuntime
from adapters.ports import ArmCounts, ArmEvidence, Interval, ReplicaSetSpec, ReplicaStatus
from engine.access import Actor
from engine.api.schemas import VerbRequest, VerbResult
from engine.observe.alerts import AlertBook
from engine.operations.desk import Desk
from engine.operations.door import do
from engine.pipelines.runner import PipelineRunner
from engine.restored.standing import Standing
from engine.rollouts.back.keeping import PlanKeeper
from engine.rollouts.controller import Controller
from engine.rollouts.world import World
from state.config import parse_config
from state.models import Audit, Release, Rollout, TrackState
from state.store import Store
from state.words import Conflict, Lifecycle, RolloutState

CONFIG = """
[service.chat]
slo = { availability = 90.0, latency_p95_ms = 5000, latency_share = 90.0 }
[environment.production]
protected = false
policy = "quick"
[policy.quick]
steps = [{ weight = 25 }, { weight = 50 }, { weight = 100 }]
judge = { min_requests = 20 }
approvals = 0
warm_hold = "10m"
"""
ANN = Actor(os.getuid(), "ann", frozenset())
NO_WORD, GOOD, BAD = (0, 0), (4000, 0), (4000, 3000)
"""(requests, errors) of the canary."""


@dataclass
class Workers:
    """A gateway whose two workers are the tables they have."""

    gateway_dir: Path
    have: list[dict[str, Any]] = field(default_factory=lambda: [{}, {}])
    refuses: str = ""
    lags: bool = False
    """The second worker keeps what it has."""
    splits: list[dict[str, int]] = field(default_factory=list)
    """Every split that a table brought, oldest first."""

    async def put(self, table: Mapping[str, Any]) -> None:
        if self.refuses:
            raise Conflict(self.refuses)
        newest = max(int(one.get("revision", 0)) for one in self.have)
        if int(table["revision"]) < newest:
            raise Conflict("not newer", code="old_revision")
        self.have = [dict(table), self.have[1] if self.lags else dict(table)]
        self.splits.append(weights_of(table))

    async def tables(self) -> list[dict[str, Any]]:
        return [dict(one) for one in self.have]

    def by_hand(self, weights: Mapping[str, int], *, revision: int) -> None:
        """Another hand puts a table of its own."""
        (route,) = self.have[0]["routes"]
        backends = [
            {"track": track, "release_id": name, "weight": weight, "replicas": []}
            for track, (name, weight) in zip(("stable", "canary", "shadow"), weights.items(), strict=False)
        ]
        self.have = [{"revision": revision, "routes": [{**route, "backends": backends}]} for _ in self.have]


def weights_of(table: Mapping[str, Any]) -> dict[str, int]:
    """release → weight in a gateway's table."""
    return {b["release_id"]: b["weight"] for r in table.get("routes", ()) for b in r["backends"] if b["weight"]}


@dataclass
class Processes:
    """A runtime whose replicas are values, ready at once."""

    there: dict[str, int] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    """Releases whose replicas never answer."""

    async def ensure(self, spec: ReplicaSetSpec, *, allow_faults: bool = False) -> None:
        self.there[spec.release_id] = spec.replicas

    def replicas(self, service: str, env: str) -> list[ReplicaStatus]:
        return [
            ReplicaStatus(
                f"{name}-{n}", service, env, name, "", n, f"unix:/{name}-{n}", 1, name not in self.broken, True, 0
            )
            for name, count in self.there.items()
            for n in range(count)
        ]

    async def probe(self, spec: ReplicaSetSpec) -> str | None:
        return None

    def crash_loop(self, service: str, env: str, release_id: str) -> str | None:
        return None


@dataclass
class Counts:
    """A metrics source that says of every step what `canary` is."""

    canary: tuple[int, int] = NO_WORD
    sees_copies: bool = False
    """It counts the copies that another's gateway makes."""
    meanwhile: Callable[[], Awaitable[None]] | None = None
    """What happens once the counts are read, before anything is done with them."""

    async def arms(self, *asked: Any) -> ArmEvidence:
        since, canary = float(asked[4]), self.canary
        if self.meanwhile is not None:
            await self.meanwhile()
        both = Interval(since, since + 30, ArmCounts(4000), ArmCounts(*canary))
        seen = (both,) if canary[0] else ()
        return ArmEvidence(seen, 0.0, 0.0, copies=seen if self.sees_copies else ())


class OneAlias:
    """A registry whose champion is what a person says."""

    def __init__(self) -> None:
        self.has = {"champion": "7"}

    def aliases(self, model_name: str) -> dict[str, str]:
        return dict(self.has)

    def set_alias(self, model_name: str, alias: str, version: str) -> None:
        self.has[alias] = version

    def drop_alias(self, model_name: str, alias: str) -> None:
        self.has.pop(alias, None)

    def tag(self, model_name: str, version: str, tags: dict[str, str]) -> None:
        return None

    def close(self) -> None:
        return None


@dataclass
class Room:
    """A workspace `chat` in production, release `a` live, `b` and `c` to be rolled out."""

    store: Store
    root: Path
    toml: str = CONFIG
    counts: Counts = field(default_factory=Counts)
    processes: Processes = field(default_factory=lambda: Processes({"a": 1}))

    def __post_init__(self) -> None:
        self.config = parse_config(self.toml, Path("airboss.toml"))
        self.workers = Workers(self.root)
        self.router = LocalRouter(
            self.store, cast(LocalGateway, self.workers), cast(LocalRuntime, self.processes), self.config
        )
        self.store.write_now(self._begin)
        self.start()

    def start(self) -> None:
        """A new engine over the same store and world."""
        plans = PlanKeeper(self.store, self.config, self.root, self.processes.replicas, admin_sockets=list)
        world = World(self.store, self.processes, self.router, self.config, plans)
        self.controller = Controller(
            self.store, world, self.counts, self.config, lambda ref, said: None, asyncio.Event()
        )
        self.desk = Desk(
            store=self.store, config=self.config, controller=self.controller, runner=cast(PipelineRunner, None),
            alerts=AlertBook(self.store), workspace=self.root, on_change=lambda ref, said: None, stop=lambda drains: None,
            restored=cast(Standing, None), public_url=lambda: "http://127.0.0.1:4321",
        )  # fmt: skip

    def _begin(self, session: Session) -> None:
        for name in ("a", "b", "c"):
            session.add(
                Release(id=name, service="chat", lifecycle=Lifecycle.DEVELOPMENT, model_name="m", model_version="",
                        digest=name, bundle_path=str(self.root), created_by="user:ann", created_at=0.0)
            )  # fmt: skip
        session.add(
            TrackState(service="chat", env="production", target="local", track="stable", release_id="a", weight=100,
                       since=0)
        )  # fmt: skip

    async def ask(self, verb: str, ref: str, /, **more: Any) -> VerbResult:
        """Ask for a verb at the door, sure of everything."""
        sure = {"yes": True, "confirm_name": "chat", "reason": "test", **more}
        return await do(self.desk, VerbRequest(verb=verb, ref=ref, **sure), ANN)

    async def deploy(self, release: str, **args: Any) -> VerbResult:
        """Roll a release out."""
        dry_run = bool(args.pop("dry_run", False))
        return await self.ask("deploy", "service/chat", args={"release": release, **args}, dry_run=dry_run)

    async def look(self, times: int = 1) -> None:
        """So many looks of the controller, at everything."""
        for _ in range(times):
            for row in self.rows():
                await self.controller.tick(row.id)
            await self.controller.finish_effects()
            await self.controller.start_waiting()

    async def until(self, rollout_id: str, state: RolloutState, looks: int = 40) -> Rollout:
        """Look until the rollout is in the state."""
        for _ in range(looks):
            if self.row(rollout_id).state == state:
                return self.row(rollout_id)
            await self.look()
        raise AssertionError(
            f"{rollout_id} is {self.row(rollout_id).state}, not {state}: {self.row(rollout_id).message}"
        )

    def rows(self) -> list[Rollout]:
        """Every rollout, oldest first."""
        return self.store.read_now(lambda s: list(s.exec(select(Rollout).order_by(Rollout.created_at))))

    def row(self, rollout_id: str) -> Rollout:
        """One rollout."""
        return self.store.read_now(lambda s: s.get_one(Rollout, rollout_id))

    def weights(self) -> dict[str, int]:
        """release → percent in the gateway."""
        return weights_of(self.workers.have[0])

    def said(self, action: str) -> list[dict[str, Any]]:
        """Details of the audit rows of an action."""
        return self.store.read_now(lambda s: [r.detail for r in s.exec(select(Audit).where(Audit.action == action))])
