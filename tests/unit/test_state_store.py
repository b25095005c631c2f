"""The store: transactions, the audit chain, migrations, backups, and what a damaged file gets."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlmodel import Session

from state import audit
from state.backup import back_up, newest_good, restore
from state.migrate import HEAD, current_revision, downgrade, upgrade
from state.sqlite_file import RESERVE_BYTES
from state.store import Store
from state.words import Conflict, OperationFailed, UsageError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    opened = Store.open(path)
    yield opened
    opened.close()


def note(session: Session, what: str = "note") -> str:
    return audit.append(session, actor="user:ann", action=what, ref="service:chat", detail={"k": [1, "é", None]})


def cut_tail(path: Path, row: int) -> None:
    """Remove the newest row of the chain, as one would who hides it."""
    connection = sqlite3.connect(path)
    connection.execute("DROP TRIGGER audit_no_delete")
    connection.execute("DELETE FROM audit WHERE id = ?", (row,))
    connection.commit()
    connection.close()


def test_the_chain_is_whole_and_a_row_changed_by_hand_is_found(store: Store, path: Path) -> None:
    for n in range(5):
        store.write_now(lambda s, n=n: note(s, f"note-{n}"))  # type: ignore[misc]
    anchor = path.with_name("audit.head")
    whole = store.read_now(lambda s: audit.verify(s, anchor))
    assert whole.is_whole
    assert anchor.read_text().strip() == whole.head
    connection = sqlite3.connect(path)
    connection.execute("DROP TRIGGER audit_no_update")
    connection.execute("UPDATE audit SET actor = 'user:mallory' WHERE id = 3")
    connection.commit()
    connection.close()
    assert store.read_now(audit.verify).broken_at == 3


def test_a_tail_cut_off_is_found_by_the_anchor(store: Store, path: Path) -> None:
    for _ in range(3):
        store.write_now(note)
    cut_tail(path, 3)
    assert store.read_now(audit.verify).is_whole
    assert not store.read_now(lambda s: audit.verify(s, path.with_name("audit.head"))).is_whole


@pytest.mark.parametrize("reopened", [False, True])
def test_a_tail_cut_off_is_not_forgotten_at_the_next_row(store: Store, path: Path, reopened: bool) -> None:
    for _ in range(3):
        store.write_now(note)
    anchor = path.with_name("audit.head")
    anchored = anchor.read_text()
    cut_tail(path, 3)
    if reopened:
        store.close()
    after = Store.open(path) if reopened else store
    for _ in range(2):
        after.write_now(note)
        assert "rows were cut off" in after.anchor_trouble
    assert anchor.read_text() == anchored
    assert not after.read_now(lambda s: audit.verify(s, anchor)).is_whole
    after.close()


def test_an_anchor_left_behind_by_a_crash_catches_up(store: Store, path: Path) -> None:
    store.write_now(note)
    anchor = path.with_name("audit.head")
    behind = anchor.read_text()
    store.write_now(note)
    store.write_now(note)
    anchor.write_text(behind)
    head = store.write_now(lambda s: [note(s), note(s)])[-1]
    assert (anchor.read_text().strip(), store.anchor_trouble) == (head, "")


def test_a_missing_anchor_is_written_anew(store: Store, path: Path) -> None:
    store.write_now(note)
    path.with_name("audit.head").unlink()
    head = store.write_now(note)
    assert path.with_name("audit.head").read_text().strip() == head


def test_an_anchor_that_cannot_be_written_does_not_unsay_what_is_committed(
    store: Store, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    in_the_way = path.with_name(".audit.head.new")
    in_the_way.mkdir()
    head = store.write_now(note)
    assert store.read_now(audit.head) == head
    assert "could not be anchored" in store.anchor_trouble
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    in_the_way.rmdir()
    head = store.write_now(note)
    assert (path.with_name("audit.head").read_text().strip(), store.anchor_trouble) == (head, "")


async def test_a_read_that_fails_says_so_in_our_words(store: Store) -> None:
    def broken(session: Session) -> None:
        session.execute(text("SELECT * FROM nowhere"))

    with pytest.raises(OperationFailed, match="no such table: nowhere"):
        store.read_now(broken)
    with pytest.raises(OperationFailed, match="no such table: nowhere"):
        await store.read(broken)


@pytest.mark.parametrize("sql", ["UPDATE audit SET actor='x'", "DELETE FROM audit"])
def test_audit_rows_can_neither_be_changed_nor_removed(store: Store, sql: str) -> None:
    store.write_now(note)
    with pytest.raises(OperationFailed, match="append-only"):
        store.write_now(lambda s: s.execute(text(sql)))


def test_one_step_down_and_up_again(path: Path) -> None:
    upgrade(path)
    assert current_revision(path) == HEAD
    downgrade(path, "base")
    assert current_revision(path) is None
    upgrade(path)
    opened = Store.open(path)
    with pytest.raises(OperationFailed, match="append-only"):
        opened.write_now(lambda s: (note(s), s.execute(text("DELETE FROM audit"))))
    opened.close()


def test_a_store_of_a_newer_program_is_refused_and_left_alone(store: Store, path: Path) -> None:
    store.close()
    connection = sqlite3.connect(path)
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    with pytest.raises(Conflict, match="newer Airboss"):
        Store.open(path)


def test_a_damaged_store_is_said_and_the_newest_good_backup_comes_back(store: Store, path: Path) -> None:
    store.write_now(note)
    back_up(path, reason="test")
    store.close()
    bytes_ = bytearray(path.read_bytes())
    bytes_[100:4000] = os.urandom(3900)
    path.write_bytes(bytes_)
    with pytest.raises(OperationFailed, match="damaged"):
        Store.open(path)
    kept = restore(path, newest_good(path.with_name("backups")))
    assert kept.read_bytes() == bytes(bytes_)
    again = Store.open(path)
    assert again.read_now(audit.verify).rows == 1
    again.close()


def test_room_is_laid_by_for_the_worst_hour(store: Store, path: Path) -> None:
    assert path.with_name("reserve").stat().st_size >= RESERVE_BYTES


_KILLED_MIGRATION = """
import os, signal, sys
from pathlib import Path
from alembic import op
from state.store import Store
make, left = op.create_table, int(sys.argv[2])
def create_table(*args, **kwargs):
    global left
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return make(*args, **kwargs)
op.create_table = create_table
Store.open(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("tables", [1, 8])
def test_a_first_migration_killed_half_way_leaves_nothing_in_the_way(path: Path, tables: int) -> None:
    killed = subprocess.run([sys.executable, "-c", _KILLED_MIGRATION, str(path), str(tables)], timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert path.exists()
    store = Store.open(path)
    store.write_now(note)
    store.close()
    assert current_revision(path) == HEAD


_WRITER = """
import sys
from pathlib import Path
from state import audit
from state.store import Store
store = Store.open(Path(sys.argv[1]))
for n in range(100000):
    store.write_now(lambda s: audit.append(s, actor="user:ann", action="n", ref="a:b", detail={"n": n}))
    sys.stdout.write(f"{n}\\n"); sys.stdout.flush()
"""


def test_what_was_acknowledged_survives_sigkill(path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    seen = [writer.stdout.readline() for _ in range(40)]
    writer.send_signal(signal.SIGKILL)
    seen += writer.stdout.read().splitlines()
    writer.wait()
    store = Store.open(path)
    chain = store.read_now(lambda s: audit.verify(s, path.with_name("audit.head")))
    store.close()
    assert chain.is_whole
    assert chain.rows >= len([line for line in seen if line.strip()])


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs"])
def test_case_19_a_store_on_a_network_file_system_is_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Path.read_text
    mounts = f"/dev/root / ext4 rw 0 0\nserver:/home {tmp_path} {kind} rw 0 0\n"
    monkeypatch.setattr(
        Path, "read_text", lambda self, *a, **k: mounts if str(self) == "/proc/self/mounts" else read(self, *a, **k)
    )
    with pytest.raises(UsageError, match=kind):
        Store.open(tmp_path / "state.db")
    assert not (tmp_path / "state.db").exists()
