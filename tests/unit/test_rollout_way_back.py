"""The way back: what its plan says, in which order, how long, and what goes back together."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlmodel import Session

from adapters.ports import Observed, ReplicaSetSpec, ReplicaStatus, Route
from engine.rollouts import planning
from engine.rollouts.back.keeping import PlanKeeper
from engine.rollouts.back.reading import read_way, rollback_plan
from engine.rollouts.back.targets import rollback_target
from engine.rollouts.back.warm import cheap_notes
from engine.rollouts.back.way import Warmth, Way, capacity_for, plan_back
from engine.rollouts.compatibility import Level, Traits, compare, level_of
from engine.rollouts.traits import changes_of_deploy, refuse_blocked, settings_of
from engine.rollouts.world import World
from state.config import Config, parse_config
from state.models import Artifact, Prompt, Release, Rollout, RolloutStep, Spawn, TrackState
from state.store import Store
from state.words import Conflict, GateRefused, RolloutState

S = RolloutState
CONFIG = """
[service.chat]
replicas = 2
[service.chat.serving]
max_batch = 32
[environment.production]
"""
WAY = Way("chat", "production", "a", "b", {"b": 100}, ready=2, wanted=2, leaving=2, start_s=12, switch_s=0.2,
          is_measured=True)  # fmt: skip


def test_a_warm_way_back_is_a_switch_and_sheds_nothing() -> None:
    plan = plan_back(WAY)
    assert (plan.warmth, plan.expected_s, plan.sheds, plan.notes) == (Warmth.WARM, 0.2, "", ())
    assert [(s.object, s.after) for s in plan.steps] == [
        ("production traffic", "0 %"), ("production traffic", "100 %"),
        ("production replicas", "0, once their streams have ended"), ("registry", "a"), ("registry", "rejected"),
    ]  # fmt: skip


def test_a_cold_way_back_starts_replicas_first_and_says_when_it_is_there() -> None:
    plan = plan_back(replace(WAY, ready=0))
    assert (plan.warmth, plan.expected_s) == (Warmth.COLD, 12.2)
    assert plan.steps[0].object == "production replicas", "capacity first, then traffic"
    assert "2 replicas must start first, about 12 s (as its last starts took)" in plan.notes[0]
    assert "nothing is shed" in plan.sheds


def test_what_is_shed_is_said_when_the_bad_release_does_not_answer() -> None:
    half = plan_back(replace(WAY, ready=1, leaving=0))
    assert half.warmth is Warmth.PARTLY
    assert "up to 50 % of the load is shed for about 12 s" in half.sheds
    assert "everything is shed" in plan_back(replace(WAY, ready=0, leaving=0)).sheds


def test_only_the_share_that_moves_needs_new_capacity() -> None:
    canary = replace(WAY, live={"a": 95, "b": 5}, ready=1, wanted=4, is_promoted=False)
    plan = plan_back(canary)
    assert plan.warmth is Warmth.WARM
    assert [(s.field, s.before, s.after) for s in plan.steps if s.object == "registry"] == [
        ("b", "challenger", "rejected")
    ]


@given(st.integers(1, 64), st.integers(0, 100))
def test_capacity_never_asks_for_more_than_there_should_be_nor_for_none(replicas: int, moving: int) -> None:
    needed = capacity_for(replicas, moving)
    assert 1 <= needed <= replicas
    assert needed * 100 >= replicas * moving


OLD = Traits("a", prompt="chat/1", tokenizer="t1", schema="s1", context=128)


@pytest.mark.parametrize(
    ("change", "part", "level"),
    [
        ({"prompt": "chat/2"}, "prompt", Level.WARN),
        ({"tokenizer": "t2"}, "tokenizer", Level.WARN),
        ({"template": "x"}, "", Level.COMPATIBLE),
        ({"schema": "s2"}, "schema", Level.BLOCK),
        ({"schema": ""}, "", Level.COMPATIBLE),
        ({"context": 64}, "context length", Level.BLOCK),
        ({"context": 256}, "context length", Level.COMPATIBLE),
        ({"context": 0}, "", Level.COMPATIBLE),
        ({"quantization": "int8"}, "quantization", Level.WARN),
        ({"settings": {"max_batch": 16}}, "serving.max_batch", Level.WARN),
    ],
)
def test_each_part_of_a_release_has_its_level(change: dict[str, Any], part: str, level: Level) -> None:
    found = compare(OLD, replace(OLD, release_id="b", **change))
    assert ([d.part for d in found], level_of(found)) == ([part] if part else [], level)
    assert all(d.way_out for d in found if d.level is Level.BLOCK), "what blocks says the way out"


@pytest.fixture
def config() -> Config:
    return parse_config(CONFIG, Path("airboss.toml"))


@pytest.fixture
def store(tmp_path: Path, config: Config) -> Iterator[Store]:
    opened = Store.open(tmp_path / "state.db")
    opened.write_now(lambda s: history(s, config, tmp_path))
    yield opened
    opened.close()


def history(session: Session, config: Config, root: Path) -> None:
    """`a`, then `b`, was verified in production with another prompt, schema and settings; `b` is live."""
    for at, name in enumerate("ab", start=1):
        (root / name).mkdir()
        session.add(Prompt(id=f"chat/{at}", name="chat", version=at, sha256=name, created_at=at))
        session.flush()
        session.add(
            Release(id=name, service="chat", lifecycle="Production", model_name="chat", model_version="", digest=name,
                    bundle_path=str(root / name), prompt_id=f"chat/{at}", context_length=64 * at, created_by="user:ann",
                    created_at=at)
        )  # fmt: skip
        session.flush()
        session.add(Artifact(release_id=name, path="schema.json", sha256=f"{name}" * 12, size=1))
        came(session, config, name, at, max_batch=16 * at)
    session.add(
        TrackState(
            service="chat", env="production", target="local", track="stable", release_id="b", weight=100, since=0
        )
    )


def came(session: Session, config: Config, release: str, at: float, **serving: Any) -> None:
    policy = planning.policy_for(config, planning.Wish("chat", "production", release))
    session.add(
        Rollout(id=f"ro-{at}", service="chat", env="production", target="local", strategy="canary", to_release=release,
                state=S.COMPLETED, policy={**policy, "serving": serving}, created_by="user:ann", created_at=at,
                state_since=at, finished_at=at)
    )  # fmt: skip
    session.flush()
    session.add(RolloutStep(rollout_id=f"ro-{at}", idx=0, kind="weight", weight=100, state="passed"))


def replica(session: Session, release: str, slot: int, took_s: float | None) -> None:
    session.add(
        Spawn(spawn_id=f"{release}-{slot}", kind="model", owner=f"{release}/{slot}", service="chat", env="production",
              release_id=release, slot=slot, state="ready" if took_s else "started", started_at=100.0,
              ready_at=100.0 + took_s if took_s else None)
    )  # fmt: skip


def test_case_58_prompt_settings_and_schema_go_back_with_the_model_and_block_nothing(
    store: Store, config: Config
) -> None:
    plan = store.read_now(lambda s: rollback_plan(s, config, "chat", "production", "a"))
    together = {ln.field: (ln.before, ln.after) for ln in plan.lines if ln.object == "goes back with it"}
    assert together == {
        "schema": ("b" * 12, "a" * 12), "context length": ("128 tokens", "64 tokens"), "prompt": ("chat/2", "chat/1"),
        "serving.max_batch": ("32", "16"),
    }  # fmt: skip
    assert any(w.startswith("schema: ") for w in plan.warnings)


def test_the_expected_seconds_come_from_measured_starts(store: Store, config: Config) -> None:
    guess = store.read_now(lambda s: rollback_plan(s, config, "chat", "production", "a"))
    assert "a guess" in " ".join(guess.warnings)
    store.write_now(lambda s: replica(s, "b", 0, 4.0))
    measured = store.read_now(lambda s: rollback_plan(s, config, "chat", "production", "a"))
    assert (measured.warmth, measured.expected_s) == ("cold", 5.0)

    def warm(session: Session) -> None:
        replica(session, "a", 0, 2.0)
        replica(session, "a", 1, 2.0)

    store.write_now(warm)
    ready = store.read_now(lambda s: rollback_plan(s, config, "chat", "production", "a"))
    assert (ready.warmth, ready.expected_s, ready.sheds) == ("warm", 1.0, "")


def test_case_57_a_release_whose_files_are_gone_is_no_way_back_until_a_replica_of_it_lives(
    store: Store, config: Config, tmp_path: Path
) -> None:
    (tmp_path / "a").rmdir()
    with pytest.raises(Conflict, match="a is gone: its bundle is not at") as refused:
        store.read_now(lambda s: rollback_target(s, "chat", "production", None))
    assert refused.value.code == "release_gone"
    store.write_now(lambda s: replica(s, "a", 0, 1.0))
    assert store.read_now(lambda s: rollback_target(s, "chat", "production", None)) == "a"


def test_an_older_release_takes_the_place_of_one_that_is_gone_and_the_plan_says_so(
    store: Store, config: Config, tmp_path: Path
) -> None:
    def newer(session: Session) -> None:
        session.add(
            Release(id="c", service="chat", lifecycle="Production", model_name="chat", model_version="", digest="c",
                    bundle_path=str(tmp_path / "b"), created_by="user:ann", created_at=3)
        )  # fmt: skip
        session.flush()
        came(session, config, "c", 3)
        session.get_one(TrackState, ("chat", "production", "local", "stable")).release_id = "c"

    store.write_now(newer)
    (tmp_path / "b").rmdir()
    assert store.read_now(lambda s: rollback_target(s, "chat", "production", None)) == "a"
    way = store.read_now(lambda s: read_way(s, config, "chat", "production", "a"))
    assert way.passed_over == ("b",)
    with pytest.raises(Conflict, match="b is gone"):
        store.read_now(lambda s: rollback_target(s, "chat", "production", "b"))


async def test_the_file_beside_the_store_is_the_plan_that_the_panel_shows(
    store: Store, config: Config, tmp_path: Path
) -> None:
    keeper = PlanKeeper(store, config, tmp_path / "rollback", lambda service, env: [], admin_sockets=list)
    (tmp_path / "rollback").mkdir()
    await keeper.keep()
    kept = json.loads((tmp_path / "rollback" / "chat@production.json").read_text())
    shown = store.read_now(lambda s: rollback_plan(s, config, "chat", "production", "a"))
    assert kept["plan"] == shown.model_dump(mode="json")
    assert kept["route"]["backends"][0]["release_id"] == kept["to_release"] == "a"
    (tmp_path / "a").rmdir()
    await keeper.keep()
    assert not (tmp_path / "rollback" / "chat@production.json").exists(), "what cannot be done is not kept ready"


def test_case_58_a_deployment_that_breaks_clients_is_blocked_with_the_way_out(store: Store, config: Config) -> None:
    changes = store.read_now(lambda s: changes_of_deploy(s, config, "chat", "production", "b", "a"))
    with pytest.raises(GateRefused, match="schema: clients written for b") as refused:
        refuse_blocked("a", "b", changes)
    assert "move the clients first" in refused.value.hint
    assert store.read_now(lambda s: changes_of_deploy(s, config, "chat", "production", None, "a")) == ()


def test_a_release_keeps_the_settings_it_was_rolled_out_with(store: Store, config: Config) -> None:
    assert store.read_now(lambda s: settings_of(s, config, "chat", "production", "a")) == {"max_batch": 16}
    assert store.read_now(lambda s: settings_of(s, config, "chat", "production", "never")) == {"max_batch": 32}


class Processes:
    """A runtime whose replicas are values: `there` is release → how many."""

    def __init__(self) -> None:
        self.there: dict[str, int] = {}

    async def ensure(self, spec: ReplicaSetSpec, *, allow_faults: bool = False) -> None:
        self.there[spec.release_id] = spec.replicas

    def replicas(self, service: str, env: str) -> list[ReplicaStatus]:
        return [
            ReplicaStatus(f"{name}-{n}", service, env, name, "", n, "", 1, True, True, 0)
            for name, count in self.there.items()
            for n in range(count)
        ]

    async def probe(self, spec: ReplicaSetSpec) -> str | None:
        return None

    def crash_loop(self, service: str, env: str, release_id: str) -> str | None:
        return None


class NoTraffic:
    """A router that nothing is routed through; it may be away."""

    answers = True

    async def apply(self, route: Route) -> int:
        raise AssertionError("no route is set here")

    async def observe(self, service: str, env: str) -> Observed | None:
        return Observed({}) if self.answers else None


@pytest.mark.parametrize(("cheaper", "kept"), [(None, 3), (1, 1)])
async def test_the_way_back_keeps_its_replicas_whatever_the_autoscaler_and_a_crash_do(
    store: Store, tmp_path: Path, cheaper: int | None, kept: int
) -> None:
    config = parse_config(CONFIG + "[service.chat.autoscale]\nmin = 1\nmax = 5\n", Path("airboss.toml"))

    def completes(session: Session) -> None:
        row = session.get_one(Rollout, "ro-2")
        row.from_release, row.warm_until = "a", time.time() + 600
        row.policy = {**row.policy, "replicas": 3, "warm_replicas": cheaper}
        stable = session.get_one(TrackState, ("chat", "production", "local", "stable"))
        stable.replicas = 1  # the autoscaler's word: a quiet hour

    store.write_now(completes)
    runtime, plans = Processes(), PlanKeeper(store, config, tmp_path, lambda s, e: [], admin_sockets=list)
    world = World(store, runtime, NoTraffic(), config, plans)
    await world.recover()
    await world.retire()
    assert runtime.there == {"a": kept, "b": 1}
    runtime.there["a"] = 0
    await world.retire()
    assert runtime.there["a"] == kept, "what died is had again"

    def ends(session: Session) -> None:
        session.get_one(Rollout, "ro-2").warm_until = time.time() - 1

    store.write_now(ends)
    world.router.answers = False  # type: ignore[attr-defined]
    await world.retire()
    assert runtime.there == {"a": kept, "b": 1}, "nobody can say that it serves no one"
    world.router.answers = True  # type: ignore[attr-defined]
    await world.retire()
    assert runtime.there == {"a": 0, "b": 1}, "the hold is over"


def test_a_cheaper_policy_says_what_it_costs_on_the_way_back() -> None:
    policy = {"replicas": 4, "warm_replicas": 1, "warm_hold": 600.0}
    (note,) = cheap_notes(policy, "a", "b", 12)
    assert "1 of 4 replicas of a stay warm" in note and "about 12 s" in note and "75 % of the load is shed" in note
    assert cheap_notes({**policy, "warm_replicas": None}, "a", "b", 12) == ()
    assert "0 of 4" in cheap_notes({**policy, "warm_replicas": None, "warm_hold": 0.0}, "a", "b", 12)[0]
