"""The way back begins in one transaction and reaches the gateway without another look, whatever else hangs."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import Session, select

from adapters.local.router import LocalRouter
from adapters.ports import Backend, ReplicaStatus, Route
from engine.rollouts.back.keeping import PlanKeeper
from engine.rollouts.controller import Controller
from engine.rollouts.world import World
from state import audit
from state.config import Config, parse_config
from state.models import Intent, Rollout, TrackState
from state.policy_config import Policy
from state.store import Store
from state.words import Conflict, IntentState, RolloutState, Unreachable

SOURCE = "[service.chat]\n[environment.production]\n[gateway]\nworkers = 2\n"


class Gateway:
    """Workers that serve the newest table they are given. A revision in `held` is not answered until it is let go."""

    def __init__(self) -> None:
        self.served: Mapping[str, Any] = {"revision": 0, "routes": []}
        self.held: dict[int, asyncio.Event] = {}
        self.asked: list[int] = []
        self.is_up = True
        self.gateway_dir = Path("/nowhere")

    async def put(self, table: Mapping[str, Any]) -> None:
        self.asked.append(table["revision"])
        if not self.is_up:
            raise Unreachable("no gateway worker is up")
        if table["revision"] in self.held:
            await self.held[table["revision"]].wait()
        if table["revision"] < self.served["revision"]:
            raise Conflict("not newer", code="old_revision")
        self.served = table

    async def tables(self) -> list[Mapping[str, Any]]:
        return [self.served]

    @property
    def weights(self) -> dict[str, int]:
        routes = self.served["routes"]
        return {b["release_id"]: b["weight"] for route in routes for b in route["backends"]}


class Runtime:
    """One ready replica of each of `releases`."""

    def __init__(self, *releases: str) -> None:
        self.releases = releases

    def replicas(self, service: str, env: str) -> list[ReplicaStatus]:
        return [
            ReplicaStatus(f"m-{name}", service, env, name, "", 0, f"unix:/{name}", 1, True, True, 0)
            for name in self.releases
        ]


class Deck:
    """A canary at half, and a controller whose loop does not run."""

    def __init__(self, root: Path, *ready: str) -> None:
        config: Config = parse_config(SOURCE, root / "airboss.toml")
        self.store, self.gateway, runtime = Store.open(root / "state.db"), Gateway(), Runtime(*ready)
        self.router = LocalRouter(self.store, self.gateway, runtime, config)  # type: ignore[arg-type]
        plans = PlanKeeper(self.store, config, root, runtime.replicas, admin_sockets=list)
        world = World(self.store, runtime, self.router, config, plans)  # type: ignore[arg-type]
        self.controller = Controller(self.store, world, None, config, lambda ref, text: None, asyncio.Event())  # type: ignore[arg-type]
        self.store.write_now(self._fill)

    def _fill(self, session: Session) -> None:
        policy = Policy(approvals=0).model_dump(mode="json")
        policy |= {"steps": [{"kind": "weight", "value": 50}, {"kind": "weight", "value": 100}], "replicas": 1}
        session.add(
            Rollout(id="ro-1", service="chat", env="production", target="local", strategy="canary", from_release="good",
                    to_release="bad", state=RolloutState.STEP_BAKING, policy=policy, created_by="user:ann",
                    created_at=time.time(), state_since=time.time())
        )  # fmt: skip
        for track, release in (("stable", "good"), ("canary", "bad")):
            session.add(
                TrackState(service="chat", env="production", target="local", track=track, release_id=release,
                           rollout_id="ro-1", weight=50, since=0.0)
            )  # fmt: skip

    async def roll_back(self) -> None:
        await self.controller.verb("ro-1", "rollback", "user:ann", "", None)

    async def settle(self) -> None:
        """Everything that was begun is over."""
        while self.controller._going:
            await asyncio.gather(*self.controller._going.values())

    async def tracks(self) -> dict[str, int]:
        return await self.store.read(lambda s: {t.release_id: t.weight for t in s.exec(select(TrackState))})

    async def intents(self) -> list[tuple[str, str]]:
        return await self.store.read(lambda s: [(i.kind, i.state) for i in s.exec(select(Intent))])


@pytest.fixture
def deck(tmp_path: Path) -> Iterator[Deck]:
    made = Deck(tmp_path, "good", "bad")
    yield made
    made.store.close()


async def test_a_rollback_reaches_the_gateway_without_another_look(deck: Deck) -> None:
    await deck.router.publish()
    assert deck.gateway.weights == {"good": 50, "bad": 50}
    await deck.roll_back()
    # On record before anything is sent: the decision, what it wants, and the tracks that any new gateway is given.
    assert await deck.intents() in ([("route", IntentState.PENDING)], [("route", IntentState.DONE)])
    assert await deck.tracks() == {"good": 100}
    await deck.settle()
    assert deck.gateway.weights == {"good": 100}
    assert await deck.intents() == [("route", IntentState.DONE)]
    assert deck.controller.wake.is_set()


async def test_a_rollback_does_not_wait_for_a_worker_that_hangs_on_an_older_table(deck: Deck) -> None:
    deck.gateway.held[1] = asyncio.Event()
    older = asyncio.create_task(deck.router.publish())
    while deck.gateway.asked != [1]:
        await asyncio.sleep(0.001)
    await deck.roll_back()
    await deck.settle()
    assert deck.gateway.weights == {"good": 100} and not older.done()
    deck.gateway.held[1].set()
    await older  # overtaken, and no trouble of anybody's
    assert deck.gateway.weights == {"good": 100}


async def test_what_a_rollback_has_overtaken_is_not_set_any_more(deck: Deck) -> None:
    forward = Route("chat", "production", "local", "ro-1", (Backend("stable", "bad", 100, ()),), 0.0, 0.0)
    await deck.roll_back()
    with pytest.raises(Conflict, match="has moved on"):
        await deck.router.apply(forward, lambda session: False)
    await deck.settle()
    assert await deck.tracks() == deck.gateway.weights == {"good": 100}


async def test_a_gateway_that_cannot_be_reached_leaves_the_intent_for_the_next_look(deck: Deck) -> None:
    deck.gateway.is_up = False
    await deck.roll_back()
    await deck.settle()
    assert await deck.intents() == [("route", IntentState.PENDING)]
    assert deck.controller.wake.is_set()


async def test_a_table_of_another_hand_is_overtaken(deck: Deck) -> None:
    deck.gateway.served = {"revision": 99, "routes": []}  # somebody went on without this engine
    await deck.roll_back()
    await deck.settle()
    assert deck.gateway.weights == {"good": 100} and deck.gateway.served["revision"] > 99


async def test_traffic_is_not_returned_to_a_release_that_has_to_start_first(tmp_path: Path) -> None:
    deck = Deck(tmp_path, "bad")
    try:
        await deck.roll_back()
        assert await deck.intents() == [] and await deck.tracks() == {"good": 50, "bad": 50}
        assert deck.controller.wake.is_set()
    finally:
        deck.store.close()


async def test_an_urgent_write_does_not_wait_for_its_anchor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, let_go = Store.open(tmp_path / "state.db"), threading.Event()
    anchor = audit.anchor
    monkeypatch.setattr(audit, "anchor", lambda *args, **names: (let_go.wait(30), anchor(*args, **names))[1])

    def note(session: Session) -> str:
        return audit.append(session, actor="user:ann", action="note", ref="service:chat")

    try:
        head = await asyncio.wait_for(store.write(note, urgent=True), 20)
        assert await store.read(audit.head) == head
        let_go.set()
    finally:
        let_go.set()
        store.close()
    assert audit.anchored_head(tmp_path / "audit.head") == head
