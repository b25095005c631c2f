"""The real store, controller, placing, door for verbs and Kubernetes adapter, over a test API server; gateway and counts are values."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from kube.requests import Request
from kube.server import KubeServer
from rollout_room import Processes, Room, Workers
from sqlmodel import Session, select

from adapters.kubernetes import objects
from adapters.kubernetes.cluster import Cluster
from adapters.kubernetes.router import KubeRouter
from adapters.kubernetes.runtime import KubeRuntime
from adapters.local.gateway import LocalGateway
from adapters.local.router import LocalRouter
from adapters.local.runtime import LocalRuntime
from adapters.placing import PlacedRouter, PlacedRuntime
from adapters.ports import ReplicaSetSpec
from engine.observe.alerts import AlertBook
from engine.operations.desk import Desk
from engine.pipelines.runner import PipelineRunner
from engine.restored.standing import Standing
from engine.rollouts.back.keeping import PlanKeeper
from engine.rollouts.controller import Controller
from engine.rollouts.pairs import Pair
from engine.rollouts.world import World
from state.config import parse_config
from state.models import Release, TrackState
from state.words import Lifecycle, RolloutState

CONFIG = """
[service.chat]
replicas = 2
slo = {{ availability = 90.0, latency_p95_ms = 5000, latency_share = 90.0 }}
[service.chat.kubernetes]
image = "vllm/vllm-openai:v0.11.0"
[metrics]
url = "http://127.0.0.1:9"
[environment.production]
protected = false
policy = "quick"
targets = [{{ runtime = "kubernetes", kubeconfig = "{kubeconfig}", namespace = "default", ownership = "full", probe = "proxy", {target} }}]
[policy.quick]
judge = {{ min_requests = 20{judge} }}
approvals = 0
warm_hold = "10m"
{policy}
"""
ROUTED = 'traffic = "httproute", gateway = "front"'
CANARY = "steps = [{ weight = 25 }, { weight = 50 }, { weight = 100 }]"
Make = Callable[..., "KubeRoom"]
"""(policy, target, more of the judge) → a room."""
DIGEST = {name: name * 64 for name in "abc"}


@dataclass
class KubeRoom(Room):
    """A workspace `chat` whose production is the namespace `default` of `kube`; releases `a`, `b` and `c`, none live yet."""

    kube: KubeServer = field(kw_only=True)
    copies: list[Pair] = field(default_factory=list)
    """What the gateway wrote of copies and their primaries."""
    confirm_s: float = 10.0
    _running: list[asyncio.Task[Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.processes = Processes()
        self.config = parse_config(self.toml, Path("airboss.toml"))
        self.workers = Workers(self.root)
        self.store.write_now(self._begin)
        self.start()

    def start(self) -> None:
        """A new engine over the same store and world; `run` has it going."""
        target = self.config.environment["production"].cluster
        assert target is not None
        self.wake = asyncio.Event()
        self.cluster = Cluster("production", target, self.config, self.root, self.wake.set)
        self.runtime = PlacedRuntime(
            cast(LocalRuntime, self.processes), {"production": KubeRuntime(self.cluster)}, self.config
        )
        self.router = LocalRouter(self.store, cast(LocalGateway, self.workers), self.runtime, self.config)
        splits = {"production": KubeRouter(self.cluster, confirm_s=self.confirm_s)}
        placed = PlacedRouter(self.router, splits if target.traffic != "gateway" else {})
        self.plans = PlanKeeper(
            self.store,
            self.config,
            self.root,
            self.runtime.replicas,
            admin_sockets=list,
            in_cluster=self.runtime.way_back,
        )
        self.world = World(self.store, self.runtime, placed, self.config, self.plans)
        self.controller = Controller(
            self.store, self.world, self.counts, self.config, lambda ref, said: None, self.wake, self._copied
        )
        self.desk = Desk(
            store=self.store, config=self.config, controller=self.controller, runner=cast(PipelineRunner, None),
            alerts=AlertBook(self.store), workspace=self.root, on_change=lambda ref, said: None, stop=lambda drains: None,
            restored=cast(Standing, None), public_url=lambda: "http://127.0.0.1:4321",
        )  # fmt: skip

    async def _copied(self, *asked: Any) -> list[Pair]:
        return self.copies

    def _begin(self, session: Session) -> None:
        for name in DIGEST:
            session.add(
                Release(id=name, service="chat", lifecycle=Lifecycle.DEVELOPMENT, model_name="m", model_version="",
                        digest=DIGEST[name], bundle_path=str(self.root), created_by="user:ann", created_at=0.0)
            )  # fmt: skip

    async def __aenter__(self) -> KubeRoom:
        """Have the engine's loops go on beside the test."""
        await self.begin()
        return self

    async def begin(self) -> None:
        """Follow the cluster and move rollouts, as an engine that has just started."""
        self._running = [asyncio.create_task(self.cluster.run())]
        await asyncio.wait_for(
            asyncio.gather(self.cluster.deployments.is_filled.wait(), self.cluster.pods.is_filled.wait()), 20
        )
        await self.world.recover()
        self._running.append(asyncio.create_task(self.controller.run()))

    async def end(self) -> None:
        """Stop the loops, wherever they are."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def __aexit__(self, *_: object) -> None:
        await self.end()

    async def rolled_out(self, release: str, *, canary: tuple[int, int] = (4000, 0), **args: Any) -> str:
        """Deploy and wait until it is live; the rollout's id."""
        self.counts.canary = canary
        rollout_id = (await self.deploy(release, **args)).ref.removeprefix("rollout/")
        await self.comes_to(rollout_id, RolloutState.COMPLETED)
        return rollout_id

    async def comes_to(self, rollout_id: str, *states: RolloutState, timeout_s: float = 120.0) -> str:
        """Wait until the rollout is in one of the states; its message."""
        until = time.monotonic() + timeout_s
        while (row := self.row(rollout_id)).state not in states:
            moves = row.state not in ("completed", "rolled_back", "cancelled", "superseded", "stuck", "paused")
            assert moves and time.monotonic() < until, f"{rollout_id} is {row.state} {row.pause_reason}: {row.message}"
            await asyncio.sleep(0.05)
        return row.message

    async def holds(self, claim: Callable[[], bool], what: str, timeout_s: float = 120.0) -> None:
        """Wait until a claim about the world holds."""
        try:
            async with asyncio.timeout(timeout_s):
                while not claim():
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"not within {timeout_s:g} s: {what}") from None

    def spec(self, release: str, role: str = "") -> ReplicaSetSpec:
        """A release's replica set, for its names and its hash."""
        return ReplicaSetSpec("chat", "production", release, DIGEST[release], self.root, 0, role=role)

    def replicas_of(self, release: str, role: str = "") -> int:
        """What the release's Deployment is asked for; 0 without one."""
        name = objects.name_of(self.spec(release, role))
        found = [d for d in self.kube.objects("deployments") if d["metadata"]["name"] == name]
        return int(found[0]["spec"]["replicas"]) if found else 0

    def led(self, track: str) -> str:
        """The release that the track's Service leads to; "" without a Service."""
        found = [s for s in self.kube.objects("services") if s["metadata"]["name"] == f"chat-{track}"]
        return self.named(found[0]["spec"]["selector"][objects.HASH]) if found else ""

    def routed(self) -> dict[str, int]:
        """release → weight by the HTTPRoute, zeros left out."""
        weights: dict[str, int] = {}
        for rule in self.kube.object("httproutes", "chat")["spec"]["rules"]:
            for ref in rule["backendRefs"]:
                if ref["weight"] and not str(rule.get("name", "")).startswith("airboss-ab-"):
                    weights[self.led(ref["name"].removeprefix("chat-"))] = ref["weight"]
        return weights

    def named(self, text: str) -> str:
        """`text` with every hash of a set said as its release (`b`, `a+baseline`)."""
        for release in DIGEST:
            for role in ("", "baseline"):
                text = text.replace(objects.spec_hash(self.spec(release, role)), release + (f"+{role}" if role else ""))
        return text

    def written(self) -> list[str]:
        """Every write so far that was answered with success, in order, each as one line."""
        return [self.named(said(one)) for one in self.kube.requests.writes() if one.status < 300 and is_write(one)]


def is_write(one: Request) -> bool:
    """Not a probe through the API server."""
    return "/proxy" not in one.path


def said(one: Request) -> str:
    """A write in a line: what kind, on what, to which end."""
    what = re.sub(r"^.*/namespaces/[^/]+/", "", one.path)
    if one.content_type == "application/apply-patch+yaml":
        dry = "try" if one.query.get("dryRun") else "apply"
        return f"{dry} {what}{_content(one.body)}"
    if one.content_type == "application/merge-patch+json":
        return f"merge {what} {json.dumps(one.body['spec'], sort_keys=True)}"
    if one.content_type == "application/json-patch+json":
        return f"patch {what} {'; '.join(_operation(o) for o in one.body if o['op'] != 'test')}"
    return f"{one.method.lower()} {what}{_content(one.body)}"


def _operation(one: Mapping[str, Any]) -> str:
    path = re.sub(r"^/spec/", "", one["path"])
    value = one["value"]
    if path == "selector":
        return f"selector={value[objects.HASH]}"
    if path == "rules":
        return " | ".join(map(_rule, value))
    return f"{path}={json.dumps(value)}"


def _rule(rule: Mapping[str, Any]) -> str:
    """`chat-stable=75,chat-canary=25 copies=10 x-beta=1`."""
    parts = [",".join(f"{ref['name']}={ref['weight']}" for ref in rule["backendRefs"])]
    parts += [f"copies={f['requestMirror']['percent']}" for f in rule.get("filters", ())]
    parts += [f"{h['name']}={h['value']}" for match in rule.get("matches", ()) for h in match.get("headers", ())]
    return " ".join(parts)


def _content(body: Mapping[str, Any]) -> str:
    spec = body.get("spec", {})
    if body["kind"] == "Deployment":
        return f" replicas={spec['replicas']}"
    if body["kind"] == "Service":
        return f" selector={spec['selector'][objects.HASH]}"
    if body["kind"] == "HTTPRoute":
        return f" {' | '.join(map(_rule, spec['rules']))}"
    return ""


def tracks(room: Room) -> dict[str, str]:
    """track → release and weight, by the store."""
    rows = room.store.read_now(lambda s: list(s.exec(select(TrackState))))
    return {row.track: f"{row.release_id} {row.weight}" for row in rows}
