"""A desk with a real store, controller and API, over a world in which no process runs and no gateway answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from sqlmodel import Session, select

from adapters.ports import MetricsSource
from engine.access import Actor
from engine.api.schemas import VerbRequest, VerbResult
from engine.observe.alerts import AlertBook
from engine.operations.desk import Desk
from engine.operations.door import do
from engine.pipelines.runner import PipelineRunner
from engine.restored.standing import Standing
from engine.rollouts.controller import Controller
from engine.rollouts.world import Replicas, Router, World
from state.config import Config, parse_config
from state.models import Audit, Release, Rollout, TrackState
from state.store import Store

TOML = """
[workspace]
name = "shop"
[service.chat]
[environment.dev]
protected = false
policy = "quick"
[environment.production]
policy = "careful"
[policy.quick]
steps = [{ weight = 50 }, { weight = 100 }]
approvals = 1
[policy.careful]
steps = [{ weight = 5 }, { weight = 25 }, { approval = 1 }, { weight = 100 }]
approvals = 2
approval_timeout = "1h"
[roles.dev]
admin = ["olga"]
[roles.production]
operator = ["olga", "ci"]
approver = ["lea", "leo", "root", "robot"]
admin = ["ana"]
[people]
shared = ["robot"]
owners = { ci = "lea" }
"""
NAMES = ("olga", "ci", "lea", "leo", "robot", "ana", "vera")
PEOPLE = {name: Actor(70000 + i, name, frozenset()) for i, name in enumerate(NAMES)} | {
    "root": Actor(0, "root", frozenset())
}


class _Still:
    """Replicas and routes of a world in which nothing runs."""

    def replicas(self, service: str, env: str) -> list[Any]:
        return []

    def crash_loop(self, service: str, env: str, release_id: str) -> str | None:
        return None

    async def ensure(self, spec: Any, **more: Any) -> None:
        return

    async def observe(self, service: str, env: str) -> Mapping[str, int] | None:
        return None


@dataclass
class Office:
    """Asks for verbs as somebody, and reads what became of it."""

    store: Store
    config: Config
    desk: Desk
    told: list[tuple[str, str]] = field(default_factory=list)

    async def ask(self, who: str, verb: str, ref: str, **more: Any) -> VerbResult:
        """Ask at the door, confirmed as far as it can be."""
        given = {"yes": True, "confirm_name": "chat", "reason": "because", **more}
        return await do(self.desk, VerbRequest(verb=verb, ref=ref, **given), PEOPLE[who])

    async def deploy(self, who: str = "olga", env: str = "production", release: str = "charlm-2", **more: Any) -> str:
        """Roll a release out; returns the rollout's id once it waits."""
        done = await self.ask(who, "deploy", "service/chat", args={"release": release, "env": env}, **more)
        name = done.ref.partition("/")[2]
        await self.tick(name)
        return name

    async def tick(self, rollout_id: str) -> None:
        """Let the controller look at a rollout once."""
        await self.desk.controller.tick(rollout_id)

    def row(self, rollout_id: str) -> Rollout:
        """A rollout's row."""
        return self.store.read_now(lambda s: s.get_one(Rollout, rollout_id))

    def change(self, rollout_id: str, **fields: Any) -> None:
        """Change a rollout's row by hand."""

        def write(session: Session) -> None:
            row = session.get_one(Rollout, rollout_id)
            for name, value in fields.items():
                setattr(row, name, value)
            session.add(row)

        self.store.write_now(write)

    def audit(self) -> list[tuple[str, str]]:
        """(actor, action) of every audit row."""
        return self.store.read_now(lambda s: [(a.actor, a.action) for a in s.exec(select(Audit))])


def make_office(path: Path, toml: str = TOML) -> Office:
    """An office in `path`."""
    store, config = Store.open(path / "state.db"), parse_config(toml, path / "airboss.toml")
    told: list[tuple[str, str]] = []

    def tell(ref: str, message: str) -> None:
        told.append((ref, message))

    still = _Still()
    world = World(store, cast(Replicas, still), cast(Router, still), config, path / "rollback")
    controller = Controller(store, world, cast(MetricsSource, None), config, tell, asyncio.Event())
    desk = Desk(
        store=store, config=config, controller=controller, runner=cast(PipelineRunner, None), alerts=AlertBook(store),
        workspace=path, on_change=tell, stop=lambda drains: None, restored=cast(Standing, None),
        public_url=str,
    )  # fmt: skip

    def fill(session: Session) -> None:
        for n in (1, 2, 3):
            session.add(Release(id=f"charlm-{n}", service="chat", lifecycle="Development", model_name="chat",
                                model_version=str(n), digest=f"{n}" * 64, bundle_path="/", created_by="user:olga",
                                created_at=0.0))  # fmt: skip
        for env in ("dev", "production"):
            session.add(TrackState(service="chat", env=env, target="local", track="stable", release_id="charlm-1",
                                   weight=100, since=0.0))  # fmt: skip

    store.write_now(fill)
    return Office(store, config, desk, told)


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    made = make_office(tmp_path)
    yield made
    made.store.close()


@pytest.fixture
def toml() -> str:
    """The office's airboss.toml."""
    return TOML
