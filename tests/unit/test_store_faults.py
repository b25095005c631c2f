"""Faults of the store, by their number in the list of failure cases: each ends in a sentence, and no acknowledged row is lost.

The same with real processes around it: `tests/integration/test_emergency.py`, `tests/chaos/test_chaos_refusals.py`.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlmodel import Session

from state import audit, write_standing
from state import sqlite_file as store_module
from state.backup import newest_good, restore
from state.backup_sets import take
from state.sqlite_file import refuse_network_file_system
from state.store import Store, impatient_until
from state.words import Conflict, OperationFailed, UsageError

WRITER = """
import os, signal, sys
from pathlib import Path
from state import audit
from state.store import Store
store = Store.open(Path(sys.argv[1]))
for n in range(6):
    store.write_now(lambda s: audit.append(s, actor="user:ann", action="n", ref="a:b", detail={"n": n, "x": "y" * 2000}))
os.kill(os.getpid(), signal.SIGKILL)
"""


def note(session: Session) -> str:
    return audit.append(session, actor="user:ann", action="note", ref="a:b")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose writer was killed with its last commits in the WAL alone."""
    place = tmp_path_factory.mktemp("killed")
    assert (
        subprocess.run([sys.executable, "-c", WRITER, str(place / "state.db")], timeout=60).returncode
        == -signal.SIGKILL
    )
    return place


@pytest.mark.parametrize("cut", [1, 3000, 9000])
def test_case_15_a_wal_whose_tail_is_torn_opens_at_its_last_whole_commit(path: Path, killed: Path, cut: int) -> None:
    for name in ("state.db", "state.db-wal", "audit.head"):
        shutil.copy(killed / name, path.with_name(name))
    wal = path.with_name("state.db-wal")
    os.truncate(wal, wal.stat().st_size - cut)
    store = Store.open(path)
    chain = store.read_now(audit.verify)
    assert chain.is_whole and 0 < chain.rows < 6, "what was torn is gone, whole commits are there"
    # That rows are missing is no secret: the head anchored beside the store was the lost one's.
    assert not store.read_now(lambda s: audit.verify(s, path.with_name("audit.head"))).is_whole
    store.write_now(note)
    assert store.read_now(audit.verify).rows == chain.rows + 1
    store.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=68m,mode=700", "tmpfs", disk]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_case_16_on_a_full_disk_a_forward_write_is_refused_whole_and_a_rollback_takes_the_reserve(
    small_disk: Path,
) -> None:
    store = Store.open(small_disk / "state.db")
    store.write_now(note)
    with (small_disk / "filler").open("ab", buffering=0) as file:
        for size in (1 << 16, 512, 1):
            try:
                while file.write(b"\0" * size):
                    pass
            except OSError:
                continue
    done: list[str] = []

    def forward(session: Session) -> None:
        for _ in range(200):
            audit.append(session, actor="user:ann", action="forward", ref="a:b", detail={"x": "y" * 4000})
        done.append("written")

    with pytest.raises(OperationFailed) as refused:
        store.write_now(forward)
    assert refused.value.code == "disk_full" and "free space" in refused.value.hint
    assert store.read_now(audit.verify).rows == 1, "nothing of it was written"
    assert (small_disk / "reserve").exists(), "the reserve is not for going forward"
    store.write_now(forward, urgent=True)
    assert not (small_disk / "reserve").exists()
    assert store.read_now(audit.verify).rows == 201
    store.close()


def test_case_17_a_store_locked_too_long_is_a_conflict_and_the_next_write_goes_through(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "BUSY_TIMEOUT_MS", 200)
    store = Store.open(path)
    store.write_now(note)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Conflict) as refused:
        store.write_now(note)
    assert refused.value.code == "store_locked" and str(path) in refused.value.message
    assert store.read_now(audit.verify).rows == 1, "it is still read meanwhile"
    other.execute("ROLLBACK")
    other.close()
    store.write_now(note)
    assert store.read_now(audit.verify).rows == 2
    store.close()


HOLDS = "import sqlite3, sys, time; c = sqlite3.connect(sys.argv[1], isolation_level=None); c.execute('BEGIN IMMEDIATE'); print('holds', flush=True); time.sleep(60)"


def test_who_holds_the_lock_is_named_while_a_write_waits_and_when_it_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "BUSY_TIMEOUT_MS", 600)
    monkeypatch.setattr(write_standing, "LONG_WAIT_S", 0.1)
    store = Store.open(path)
    store.write_now(note)
    assert store.writes.trouble == ""
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(path)], stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None and other.stdout.readline() == "holds\n"
            holder = f"process {other.pid} (python"
            waiting = store._submit(note, urgent=False)
            seen = {""}
            while not waiting.done():
                seen.add(store.writes.trouble)
                time.sleep(0.02)
            with pytest.raises(Conflict) as refused:
                waiting.result()
        finally:
            other.kill()
    assert any("a write has waited" in said and holder in said for said in seen)
    assert holder in refused.value.message and "--emergency" in refused.value.hint
    assert holder in store.writes.trouble, "it is said until a write goes through"
    with pytest.raises(Conflict):
        store.write_now(_refused_by_its_own_rules)
    assert store.writes.trouble == "", "the store took that one: its own rules refused it"
    store.close()


async def test_a_write_that_a_person_waits_for_leaves_a_queue_that_does_not_move(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_standing, "LONG_WAIT_S", 0.1)
    store = Store.open(path)
    begun, go_on = threading.Event(), threading.Event()

    def waits(session: Session) -> None:
        begun.set()
        go_on.wait(30)

    stuck = asyncio.create_task(store.write(waits))
    await asyncio.to_thread(begun.wait)
    behind = asyncio.create_task(store.write(note))
    impatient_until.set(time.monotonic() + 0.3)
    with pytest.raises(Conflict, match="nothing was written: a write has waited") as refused:
        await store.write(note, urgent=True)
    assert refused.value.code == "store_locked"
    go_on.set()
    await asyncio.gather(stuck, behind)
    assert store.read_now(audit.verify).rows == 1, "the one that nobody waits for was written, the other one was not"
    impatient_until.set(time.monotonic() + 0.3)
    await store.write(note)
    store.close()


def _refused_by_its_own_rules(session: Session) -> None:
    audit.head(session)
    raise Conflict("it has moved")


def test_a_store_that_became_read_only_says_so_and_goes_on_once_it_is_not(path: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    kept = home / "state.db"
    made = Store.open(kept)
    made.write_now(note)
    made.close()
    bound = subprocess.run(["mount", "--bind", home, home], capture_output=True, check=False)
    if bound.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", home], check=True)
        store = Store(kept)
        with pytest.raises(OperationFailed) as refused:
            store.write_now(note, urgent=True)
        assert refused.value.code == "store_read_only" and "mounted read-only" in refused.value.message
        assert "--emergency" in refused.value.hint and store.writes.trouble == refused.value.message
        subprocess.run(["mount", "-o", "remount,bind,rw", home], check=True)
        store.write_now(note)
        assert store.read_now(audit.verify).rows == 2 and store.writes.trouble == ""
        store.close()
    finally:
        subprocess.run(["umount", "-l", home], check=True)


def test_case_18_a_corrupted_page_is_found_at_the_start_and_a_backup_comes_back(path: Path) -> None:
    store = Store.open(path)
    for _ in range(40):
        store.write_now(lambda s: audit.append(s, actor="user:ann", action="n", ref="a:b", detail={"x": "y" * 500}))
    take(path, reason="test", directory=path.with_name("backups"), config=None)
    store.close()
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2 // 4096 * 4096)
        file.write(os.urandom(2 * 4096))
    with pytest.raises(OperationFailed, match="damaged") as refused:
        Store.open(path)
    assert "state restore" in refused.value.hint
    restore(path, newest_good(path.with_name("backups")))
    again = Store.open(path)
    assert again.read_now(audit.verify).rows == 40
    again.close()


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs"])
def test_case_19_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    mounts = f"/dev/sda / ext4 rw 0 0\nserver:/x {tmp_path} {kind} rw 0 0\n"
    read_text = Path.read_text
    monkeypatch.setattr(
        Path,
        "read_text",
        lambda self, *a, **k: mounts if str(self) == "/proc/self/mounts" else read_text(self, *a, **k),
    )
    with pytest.raises(UsageError, match=kind) as refused:
        refuse_network_file_system(tmp_path / "ws")
    assert "local disk" in refused.value.hint


def test_case_19_a_read_only_file_system_is_a_sentence(small_disk: Path) -> None:
    Store.open(small_disk / "state.db").close()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(UsageError, match="mounted read-only") as refused:
        Store.open(small_disk / "state.db")
    assert "--emergency" in refused.value.hint


def test_case_21_an_audit_row_edited_by_hand_is_found_at_the_start_and_in_a_backup(path: Path) -> None:
    store = Store.open(path)
    for _ in range(3):
        store.write_now(note)
    store.close()
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TRIGGER audit_no_update")
        connection.execute("UPDATE audit SET at = ? WHERE id = 2", (time.time() - 9999,))
    connection.close()
    again = Store.open(path)
    assert again.read_now(audit.verify).broken_at == 2
    again.close()
    made = take(path, reason="test", directory=path.with_name("backups"), config=None)
    assert any("row 2" in line for line in made.trouble)
