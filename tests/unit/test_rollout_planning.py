"""Where a rollback goes, and what forbids a deployment: on a real store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlmodel import Session

from engine.rollouts import planning, records
from engine.rollouts.back.targets import verified_releases, way_back
from engine.rollouts.values import Move
from state.config import Config, parse_config
from state.models import Intent, Release, Rollout, RolloutStep, TrackState
from state.store import Store
from state.words import Conflict, Denied, IntentState, RolloutState, UsageError

S = RolloutState
CONFIG = """
[service.chat]
[environment.production]
[environment.dev]
protected = false
[policy.careful]
steps = [{ weight = 25 }, { weight = 100 }]
approvals = 0
"""


@pytest.fixture
def config() -> Config:
    return parse_config(CONFIG, Path("airboss.toml"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path / "state.db")
    opened.write_now(_releases)
    yield opened
    opened.close()


def _releases(session: Session) -> None:
    for name in ("a", "b", "c"):
        session.add(
            Release(id=name, service="chat", lifecycle="Development", model_name="chat", model_version="", digest=name,
                    bundle_path="/", created_by="user:ann", created_at=0.0)
        )  # fmt: skip


def lived(
    session: Session, config: Config, env: str, release: str, state: S, at: float, *, traffic: bool = True
) -> None:
    """A rollout that has ended."""
    name = f"ro-{env}-{release}-{at}"
    policy = planning.policy_for(config, planning.Wish("chat", env, release))
    session.add(
        Rollout(id=name, service="chat", env=env, target="local", strategy="canary", to_release=release, state=state.value,
                policy=policy, created_by="user:ann", created_at=at, state_since=at, finished_at=at)
    )  # fmt: skip
    session.flush()
    if traffic:
        session.add(RolloutStep(rollout_id=name, idx=0, kind="weight", weight=25, state="passed"))


def live(session: Session, env: str, release: str) -> None:
    session.merge(
        TrackState(service="chat", env=env, target="local", track="stable", release_id=release, weight=100, since=0)
    )


def test_the_way_back_is_the_last_release_that_was_verified_here(store: Store, config: Config) -> None:
    def history(session: Session) -> None:
        lived(session, config, "production", "a", S.COMPLETED, 1)
        lived(session, config, "production", "b", S.COMPLETED, 2)
        lived(session, config, "production", "c", S.ROLLED_BACK, 3)
        live(session, "production", "b")

    store.write_now(history)
    assert store.read_now(lambda s: verified_releases(s, "chat", "production")) == ["b", "a"]
    assert store.read_now(lambda s: way_back(s, "chat", "production")) == "a"


def test_what_happened_in_dev_does_not_close_the_way_back_in_production(store: Store, config: Config) -> None:
    def history(session: Session) -> None:
        lived(session, config, "production", "a", S.COMPLETED, 1)
        lived(session, config, "production", "b", S.COMPLETED, 2)
        lived(session, config, "dev", "a", S.ROLLED_BACK, 3)
        lived(session, config, "production", "a", S.ROLLED_BACK, 4, traffic=False)
        live(session, "production", "b")

    store.write_now(history)
    assert store.read_now(lambda s: way_back(s, "chat", "production")) == "a"


def test_a_rollback_to_what_is_live_is_refused(store: Store, config: Config) -> None:
    store.write_now(lambda s: live(s, "production", "a"))
    with pytest.raises(Conflict, match="live in production already"):
        store.write_now(
            lambda s: planning.create_rollback(s, config, "chat", "production", "a", actor="user:ann", reason="")
        )


def test_a_rollback_does_not_ask_todays_policy(store: Store) -> None:
    unplayed = CONFIG.replace("{ weight = 25 }", "{ mirror = 5 }, { weight = 25 }")
    config = parse_config(unplayed, Path("airboss.toml"))
    store.write_now(lambda s: live(s, "production", "b"))
    rollout_id = store.write_now(
        lambda s: planning.create_rollback(s, config, "chat", "production", "a", actor="user:ann", reason="bad answers")
    )
    row = store.read_now(lambda s: s.get(Rollout, rollout_id))
    assert row is not None
    assert (row.state, row.from_release, row.to_release) == (S.ROLLING_BACK, "a", "b")


def test_a_second_rollback_at_the_same_moment_is_a_conflict(store: Store, config: Config) -> None:
    def begin() -> str:
        return store.write_now(
            lambda s: planning.create_rollback(s, config, "chat", "production", "a", actor="user:ann", reason="")
        )

    store.write_now(lambda s: live(s, "production", "b"))
    begin()
    with pytest.raises(Conflict, match="already"):
        begin()


@pytest.mark.parametrize(
    ("wish", "error"),
    [
        (planning.Wish("nope", "production", "a"), UsageError),
        (planning.Wish("chat", "nope", "a"), UsageError),
        (planning.Wish("chat", "production", "nope"), UsageError),
    ],
)
def test_what_does_not_exist_is_named(
    store: Store, config: Config, wish: planning.Wish, error: type[Exception]
) -> None:
    with pytest.raises(error):
        store.read_now(lambda s: planning.check_deploy(s, config, wish))


def test_a_faulty_release_is_refused_where_faults_are_not_allowed(store: Store, config: Config) -> None:
    def spoil(session: Session) -> None:
        row = session.get(Release, "c")
        assert row is not None
        row.serving = {"fault": {"latency_ms": 100}}
        session.add(row)

    store.write_now(spoil)
    with pytest.raises(Denied, match="made to misbehave"):
        store.read_now(lambda s: planning.check_deploy(s, config, planning.Wish("chat", "production", "c")))


def test_what_an_earlier_state_wanted_does_not_happen_after_the_next(store: Store, config: Config) -> None:
    policy = planning.policy_for(config, planning.Wish("chat", "production", "b"))
    rollout_id = store.write_now(
        lambda s: planning.create_rollout(
            s, planning.Wish("chat", "production", "b"), "a", policy, actor="user:ann", reason=""
        )
    )
    store.write_now(
        lambda s: s.add(Intent(key="k", rollout_id=rollout_id, kind="route", payload={}, state="pending", created_at=0))
    )
    seen = store.read_now(lambda s: records.opened(s, rollout_id))
    assert seen is not None
    store.write_now(lambda s: records.commit_move(s, seen, Move(S.PAUSED, 0, (), "paused", "manual", S.STEP_BAKING)))
    assert store.read_now(lambda s: s.get(Intent, 1)).state == IntentState.SUPERSEDED  # type: ignore[union-attr]
    assert not store.write_now(lambda s: records.commit_move(s, seen, Move(S.ROLLING_BACK, 0))), (
        "a stale look changes nothing"
    )


@pytest.mark.parametrize(
    "targets",
    ['[{ runtime = "kubernetes", namespace = "ml" }]', '[{ name = "a" }, { name = "b" }]', "[]"],
    ids=["a cluster that is only observed", "two targets", "none"],
)
def test_targets_that_are_not_driven_are_refused_and_not_replaced_by_local_processes(targets: str) -> None:
    source = CONFIG.replace("[environment.production]", f"[environment.production]\ntargets = {targets}")
    config = parse_config(source, Path("airboss.toml"))
    with pytest.raises(UsageError, match=r"production (runs on|is observed)"):
        planning.policy_for(config, planning.Wish("chat", "production", "b"))
