"""What the engine relies on of its store, whichever database is under it: one suite for the SQLite file and for PostgreSQL."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col, select

from state import audit, ids
from state.migrate import HEAD
from state.models import Artifact, Evidence, Release, Rollout, TrackState
from state.postgres import Postgres
from state.store import Store
from state.words import AirbossError
from tests.postgres_server import PostgresServer, needs_postgres

Opened = Callable[[], Store]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    running = PostgresServer()
    yield running
    running.close()


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("postgresql", marks=needs_postgres),
    ]
)
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Opened:
    """Opens the same store each time it is called."""
    if request.param == "sqlite":
        return lambda: Store.open(tmp_path / "state.db")
    url = request.getfixturevalue("server").database()
    return lambda: Store.open(tmp_path / "state.db", Postgres(url, tmp_path))


@pytest.fixture
def store(opened: Opened) -> Iterator[Store]:
    made = opened()
    yield made
    made.close()


def note(session: Session, what: str = "note") -> str:
    return audit.append(
        session, actor="user:ann", action=what, ref="service:chat", detail={"k": [1, "é", None, 0.1, 1e300]}
    )


def a_rollout(rollout_id: str, state: str) -> Rollout:
    return Rollout(
        id=rollout_id, service="chat", env="production", target="local", strategy="canary", to_release="r",
        state=state, created_by="user:ann", created_at=0.0, state_since=0.0,
    )  # fmt: skip


def test_a_write_that_fails_leaves_nothing(store: Store) -> None:
    def broken(session: Session) -> None:
        note(session)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        store.write_now(broken)
    assert store.read_now(audit.verify).rows == 0


async def test_writes_from_many_tasks_are_one_after_another(store: Store) -> None:
    names = await asyncio.gather(*(store.write(lambda s: ids.next_id(s, "run")) for _ in range(50)))
    assert sorted(names, key=lambda n: int(n.split("-")[1])) == [f"run-{n}" for n in range(1, 51)]


def test_one_active_rollout_a_service_and_environment(store: Store) -> None:
    store.write_now(lambda s: s.add(a_rollout("ro-1", "completed")))
    store.write_now(lambda s: s.add(a_rollout("ro-2", "step_baking")))
    with pytest.raises(IntegrityError):
        store.write_now(lambda s: s.add(a_rollout("ro-3", "planned")))
    assert store.write_now(lambda s: s.get(Rollout, "ro-3")) is None, "the next write goes through"


def test_what_was_written_is_there_after_opening_again_and_the_chain_is_whole(opened: Opened) -> None:
    first = opened()
    heads = [first.write_now(lambda s, n=n: note(s, f"note-{n}")) for n in range(5)]  # type: ignore[misc]
    first.close()
    again = opened()
    found = again.read_now(audit.verify)
    assert (found.is_whole, found.rows, found.head) == (True, 5, heads[-1])
    assert again.path.with_name("audit.head").read_text().strip() == heads[-1]
    again.close()


@pytest.mark.parametrize("verb", ["UPDATE audit SET actor = 'user:mallory'", "DELETE FROM audit"])
def test_the_audit_log_refuses_to_be_changed(store: Store, verb: str) -> None:
    store.write_now(note)
    with pytest.raises(AirbossError, match="append-only"):
        store.write_now(lambda s: s.connection().execute(text(verb)))
    assert store.read_now(audit.verify).is_whole


def test_reading_sees_one_moment_while_others_write(store: Store) -> None:
    store.write_now(note)

    def twice(session: Session) -> tuple[int, int]:
        before = audit.verify(session).rows
        store.write_now(note)
        return before, audit.verify(session).rows

    assert store.read_now(twice) == (1, 1)
    assert store.read_now(audit.verify).rows == 2


def test_reading_cannot_write(store: Store) -> None:
    with pytest.raises(AirbossError, match=r"read-?only"):
        store.read_now(lambda s: (ids.put(s, "k", "v"), s.commit()))
    assert store.read_now(lambda s: ids.get(s, "k")) == ""


def test_numbers_of_64_bits_times_and_text_come_back_as_they_went_in(store: Store) -> None:
    at = 1_795_000_000.123456789
    words = "naïve \U0001f6a2 'quoted' \"twice\" \\ %s ? \n tab\t"

    def put(session: Session) -> None:
        session.add(
            Release(id="r-1", service="chat", lifecycle="Staging", model_name="m", model_version="1", digest="d",
                    bundle_path="/b", seed=2**53 + 1, created_by=words, created_at=at, metrics={"loss": 1e-300, "w": words})
        )  # fmt: skip
        session.flush()
        session.add(Artifact(release_id="r-1", path="model.safetensors", sha256="0" * 64, size=140_000_000_000))

    store.write_now(put)
    release, size = store.read_now(lambda s: (s.get(Release, "r-1"), s.get(Artifact, ("r-1", "model.safetensors"))))
    assert release is not None and size is not None
    assert (release.seed, release.created_at, release.created_by) == (2**53 + 1, at, words)
    assert release.metrics == {"loss": 1e-300, "w": words}
    assert size.size == 140_000_000_000


def test_text_is_ordered_by_code_points(store: Store) -> None:
    names = ["b", "A", "a", "B", "ä", "_", "1"]

    def put(session: Session) -> None:
        for name in names:
            session.add(TrackState(service=name, env="e", target="t", track="stable", release_id="r", since=0.0))

    store.write_now(put)
    found = store.read_now(lambda s: list(s.exec(select(TrackState.service).order_by(col(TrackState.service)))))
    assert found == sorted(names)
    assert (
        store.read_now(
            lambda s: len(
                s.exec(
                    select(TrackState.service).where(col(TrackState.service) >= "a", col(TrackState.service) < "c")
                ).all()
            )
        )
        == 2
    )


def test_a_word_with_a_nul_in_it_keeps_no_rollback_from_being_written(store: Store) -> None:
    def put(session: Session) -> None:
        row = a_rollout("ro-1", "rolling_back")
        row.message = "killed: \0\0 core dumped"
        session.add(row)
        audit.append(session, actor="user:ann", action="rollback", ref="rollout:ro-1", reason="it said \0",
                     detail={"tail": "\0"})  # fmt: skip

    store.write_now(put, urgent=True)
    assert store.read_now(audit.verify).is_whole
    row = store.read_now(lambda s: s.get(Rollout, "ro-1"))
    assert row is not None and row.message.startswith("killed: ") and row.message.endswith("core dumped")


def test_the_same_evidence_twice_is_refused_and_named_so(store: Store) -> None:
    def count(session: Session) -> None:
        session.add(
            Evidence(boot_id="b", seq=1, table_revision=1, t0=time.time(), t1=time.time(), service="chat", env="e",
                     target="t", track="stable", release_id="r")
        )  # fmt: skip

    store.write_now(count)
    with pytest.raises(IntegrityError):
        store.write_now(count)


def test_the_schema_is_this_programs(store: Store) -> None:
    assert (
        store.read_now(lambda s: s.connection().execute(text("SELECT version_num FROM alembic_version")).scalar())
        == HEAD
    )
