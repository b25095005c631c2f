"""The store on a real PostgreSQL: two engines, a server that restarts, addresses that are wrong, backups and moving house."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from sqlmodel import Session

from console.offline import OfflineStore
from state import audit, ids, postgres
from state.backup import MARKER, unsound
from state.backup_sets import take, verify
from state.config import parse_config
from state.databases import copier
from state.paths import Paths
from state.postgres import Postgres
from state.store import Store
from state.store_config import StateConfig
from state.transfer import put_in
from state.words import AirbossError, ConfigError, Conflict, Unreachable, UsageError
from tests.postgres_server import PostgresServer, needs_postgres

pytestmark = needs_postgres


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    running = PostgresServer()
    yield running
    running.close()


@pytest.fixture
def url(server: PostgresServer) -> str:
    return server.database()


def workspace(root: Path, url: str | None) -> Paths:
    root.mkdir(parents=True, exist_ok=True)
    table = f'[state]\nurl = "{url}"\n' if url else ""
    (root / "airboss.toml").write_text(f'[workspace]\nname = "w"\n{table}')
    paths = Paths.of(root)
    paths.make()
    return paths


def open_at(root: Path, url: str) -> Store:
    root.mkdir(parents=True, exist_ok=True)
    return Store.open(root / "state.db", Postgres(url, root))


def note(session: Session) -> str:
    return audit.append(session, actor="user:ann", action="note", ref="service:chat", detail={"x": 0.1})


def test_a_second_engine_waits_until_the_first_one_ends(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "WAIT_S", 0.05)
    first, second = open_at(tmp_path / "a", url), []
    waiting = threading.Thread(target=lambda: second.append(open_at(tmp_path / "b", url)))
    waiting.start()
    for _ in range(20):
        first.write_now(note)
        assert not second, "two engines hold the same records"
    first.close()
    waiting.join(timeout=20)
    assert second[0].write_now(note)
    assert second[0].read_now(audit.verify).rows == 21
    second[0].close()


def test_an_engine_whose_lease_ran_out_writes_nothing_more(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that was suspended: its engine wakes up, believes in itself, and is fenced at its first write."""
    monkeypatch.setattr(postgres, "RENEW_S", 3600.0)
    monkeypatch.setattr(postgres, "TTL_S", 0.2)
    monkeypatch.setattr(postgres, "WAIT_S", 0.05)
    suspended = open_at(tmp_path / "a", url)
    suspended.write_now(note)
    other = open_at(tmp_path / "b", url)
    with pytest.raises(Conflict, match="nothing was written") as refused:
        suspended.write_now(note)
    assert refused.value.code == "fenced"
    assert other.read_now(audit.verify).rows == 1
    suspended.close()
    assert other.write_now(note), "the one that was fenced took the lease away from nobody"
    other.close()


def test_an_engine_that_lost_its_lease_finds_out_by_itself(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "RENEW_S", 0.05)
    engine = open_at(tmp_path / "a", url)
    with psycopg.connect(url) as connection:
        connection.execute("DELETE FROM airboss.kv WHERE key = 'engine/lease'")
    deadline = time.monotonic() + 20
    while not engine.database.lost and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "not this engine's any more" in engine.database.lost
    engine.close()


def test_a_killed_engine_of_the_same_workspace_is_followed_at_once(url: str, tmp_path: Path) -> None:
    """Its lease still runs, but its workspace's lock is ours: it is dead."""
    killed = open_at(tmp_path, url)
    began = time.monotonic()
    again = open_at(tmp_path, url)
    assert time.monotonic() - began < 10
    assert again.write_now(note)
    again.close()
    killed.close()


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_server_that_restarts_loses_no_write_and_does_none_twice(
    server: PostgresServer, url: str, tmp_path: Path, mode: str
) -> None:
    store, done, over = open_at(tmp_path, url), [], threading.Event()

    def go_on() -> None:
        while not over.is_set():
            done.append(store.write_now(lambda s: ids.next_id(s, "run")))

    writer = threading.Thread(target=go_on)
    writer.start()
    for _ in range(2):
        reached = len(done)
        while len(done) < reached + 20:
            time.sleep(0.01)
        server.stop(mode)
        server.start()
    reached, deadline = len(done), time.monotonic() + 30
    while len(done) < reached + 20 and time.monotonic() < deadline:
        time.sleep(0.01)
    over.set()
    writer.join(timeout=40)
    assert len(done) >= reached + 20
    assert done == [f"run-{n}" for n in range(1, len(done) + 1)]
    store.close()


def test_a_commit_whose_answer_was_lost_is_not_done_twice(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, cut = open_at(tmp_path, url), []
    commit = Session.commit

    def commit_and_lose_the_answer(session: Session) -> None:
        connection = session.connection()
        commit(session)
        if not cut and threading.current_thread().name == "store-write":
            cut.append(True)
            from sqlalchemy.exc import OperationalError

            raise OperationalError(
                "COMMIT", {}, psycopg.OperationalError("server closed the connection"), connection_invalidated=True
            )
        del connection

    monkeypatch.setattr(Session, "commit", commit_and_lose_the_answer)
    assert store.write_now(lambda s: ids.next_id(s, "run")) == "run-1"
    assert cut
    assert store.write_now(lambda s: ids.next_id(s, "run")) == "run-2"
    store.close()


def test_a_server_that_is_away_is_a_sentence_and_says_what_works(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1.*does not answer") as refused:
        open_at(tmp_path, "postgresql://airboss@127.0.0.1:1/none")
    assert "--emergency" in refused.value.hint


def test_what_cannot_be_a_store_is_refused(server: PostgresServer, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        open_at(tmp_path, server.url("nowhere"))
    with pytest.raises(UsageError, match="encoded in SQL_ASCII"):
        open_at(tmp_path, server.database("SQL_ASCII"))
    with pytest.raises(UsageError, match="mysql"):
        Postgres("mysql://root@localhost/x", tmp_path)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('url = "postgresql://ann:geheim@db/airboss"', "holds a password"),
        ('url = "sqlite:///x.db"', "must be postgresql://"),
        ('url = "postgresql://db/airboss"\npassword = "geheim"', "secret must not stand in the file"),
    ],
)
def test_a_wrong_address_is_named_with_its_line(line: str, said: str) -> None:
    with pytest.raises(ConfigError, match=r"airboss.toml:[23]: ") as refused:
        parse_config(f"[state]\n{line}\n", Path("airboss.toml"))
    assert said in refused.value.message
    assert "geheim" not in refused.value.message or "holds a password" in said


def test_a_backup_is_a_file_of_its_own_that_checks_out(url: str, tmp_path: Path) -> None:
    paths = workspace(tmp_path / "w", url)
    store = Store.open(paths.store, Postgres(url, paths.root))
    for _ in range(3):
        store.write_now(note)
    made = take(
        paths.store, reason="manual", directory=paths.backups, config=None, copier=copier(StateConfig(url=url), paths)
    )
    assert (made.audit_rows, made.audit_head, verify(made)) == (3, store.read_now(audit.head), ())
    assert unsound(made.store) == ""
    store.close()


def test_a_restore_puts_back_what_was_and_keeps_what_is(url: str, tmp_path: Path) -> None:
    paths = workspace(tmp_path / "w", url)
    store = Store.open(paths.store, Postgres(url, paths.root))
    store.write_now(note)
    store.write_now(lambda s: ids.next_id(s, "run"))
    copy = take(
        paths.store, reason="manual", directory=paths.backups, config=None, copier=copier(StateConfig(url=url), paths)
    )
    store.write_now(note)
    elsewhere = Postgres(url, tmp_path / "another")
    with pytest.raises(Conflict, match="an engine holds the records"):
        put_in(elsewhere, copy.store, paths.store, {})
    store.close()
    kept = put_in(Postgres(url, paths.root), copy.store, paths.store, {"actor": "user:ann"})
    assert json.loads(paths.store.with_name(MARKER).read_text())["kept"] == kept
    back = Store.open(paths.store, Postgres(url, paths.root))
    assert back.read_now(audit.verify).rows == 1
    back.write_now(note)
    assert back.read_now(audit.verify).is_whole, "rows are numbered on from the last"
    assert back.write_now(lambda s: ids.next_id(s, "run")) == "run-2"
    back.close()
    with psycopg.connect(url) as connection:
        rows = connection.execute(f"SELECT count(*) FROM {kept}.audit").fetchone()
    assert rows == (2,)


def test_a_workspace_moves_from_its_file_to_a_server(url: str, tmp_path: Path) -> None:
    file = workspace(tmp_path / "w", None)
    store = Store.open(file.store)
    heads = [store.write_now(note) for _ in range(3)]
    copy = take(file.store, reason="manual", directory=file.backups, config=None)
    store.close()
    assert put_in(Postgres(url, file.root), copy.store, file.store, {}) == ""
    moved = Store.open(file.store, Postgres(url, file.root))
    assert moved.read_now(audit.verify).head == heads[-1]
    assert moved.write_now(note)
    moved.close()


def test_without_an_engine_the_server_is_read_and_without_a_server_the_newest_backup(
    server: PostgresServer, tmp_path: Path
) -> None:
    url = server.database()
    paths = workspace(tmp_path / "w", url)
    with pytest.raises(AirbossError, match="has no store yet"):
        OfflineStore.open(paths)
    store = Store.open(paths.store, Postgres(url, paths.root))
    store.write_now(note)
    take(paths.store, reason="manual", directory=paths.backups, config=None, copier=copier(StateConfig(url=url), paths))
    store.write_now(note)
    store.close()
    with closing(OfflineStore.open(paths)) as read:
        assert [row["action"] for row in read.get("/v1/audit", {"limit": 10})] == ["note", "note"]
        assert read.get("/v1/audit/verify", {})["ok"]
        for path in ("/v1/rollouts", "/v1/runs", "/v1/releases", "/v1/alerts", "/v1/silences", "/v1/freezes",
                     "/v1/fleet", "/v1/status", "/v1/glasses", "/v1/drills"):  # fmt: skip
            read.get(path, {})
    server.stop()
    try:
        with closing(OfflineStore.open(paths)) as read:
            assert "backup" in read.name and "does not answer" in read.name
            assert len(read.get("/v1/audit", {"limit": 10})) == 1
    finally:
        server.start()


def test_a_server_stores_what_a_file_stores(url: str, tmp_path: Path) -> None:
    """The same columns, in the same order of tables: what one holds the other can take."""
    file, served = (
        Store.open(tmp_path / "file" / "state.db") if (tmp_path / "file").mkdir() is None else None,
        open_at(tmp_path, url),
    )  # type: ignore[func-returns-value]
    assert file is not None
    with closing(sqlite3.connect(tmp_path / "file" / "state.db")) as here, psycopg.connect(url) as there:
        tables = {r[0] for r in here.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        for table in sorted(tables - {"sqlite_sequence"}):
            ours = {r[1] for r in here.execute(f"PRAGMA table_info({table})")}
            query = (
                "SELECT column_name FROM information_schema.columns WHERE table_schema = 'airboss' AND table_name = %s"
            )
            assert ours == {r[0] for r in there.execute(query, (table,))}, table
    served.close()
    file.close()
