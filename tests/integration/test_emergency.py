"""`rollback --emergency` where no engine can start, and the next engine that takes its record up, exactly once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from bundles import CHARS, gpt_bundle
from patience import until
from servers import needs_haproxy
from sqlmodel import Session
from stranded import Gateway, Ran, airboss, gateway, paths

from adapters.local.places import Backoff
from adapters.local.runtime import MODULE, LocalRuntime, owner_of, server_payload
from adapters.local.spawn import Spawner
from adapters.local.supervisor import Supervisor
from adapters.ports import ReplicaSetSpec
from console.commands.children import serving_children
from engine.serving.models.gpt import GPTConfig
from engine.spill import import_spill
from state import audit
from state.backup_sets import take
from state.config import load_config
from state.models import Release, Rollout, TrackState
from state.paths import Paths
from state.policy_config import Policy
from state.store import Store
from state.words import AirbossError, OperationFailed

__all__ = ["gateway", "paths"]

GOOD, BAD = "charlm-1", "charlm-2"
POLICY = Policy().model_dump(mode="json") | {"steps": [{"kind": "weight", "value": 25}], "replicas": 1}


def the_record(session: Session) -> None:
    """A canary of the bad release at 25 %."""
    for name in (GOOD, BAD):
        session.add(Release(id=name, service="chat", lifecycle="Staging", model_name="m", model_version="", digest="ab" * 32,
                            bundle_path="", created_by="user:ana", created_at=1.0))  # fmt: skip
    session.add(Rollout(id="ro-2", service="chat", env="production", target="local", strategy="canary", from_release=GOOD,
                        to_release=BAD, state="step_baking", policy=POLICY,
                        created_by="user:ana", created_at=1.0, state_since=1.0))  # fmt: skip
    for track, release, weight in (("stable", GOOD, 75), ("canary", BAD, 25)):
        session.add(TrackState(service="chat", env="production", target="local", track=track, release_id=release,
                               rollout_id="ro-2", weight=weight, since=1.0))  # fmt: skip
    audit.append(session, actor="user:ana", action="deploy", ref="rollout:ro-2")


@pytest.fixture
def store(paths: Paths) -> Paths:
    """The workspace with a store that an engine has written and left."""
    opened = Store.open(paths.store)
    opened.write_now(the_record)
    opened.close()
    return paths


def engine_refuses(where: Paths) -> str:
    """Start the engine, which must end by itself; what it says."""
    ended = subprocess.run([sys.executable, "-P", "-m", "engine.daemon", "--workspace", str(where.root)],
                           capture_output=True, text=True, timeout=120, check=False)  # fmt: skip
    said: dict[str, Any] = json.loads(ended.stderr.strip().splitlines()[-1])["error"]
    assert ended.returncode == said["exit"] != 0
    return f"{said['code']}: {said['message']} {said['hint']}"


def roll_back(where: Paths, *more: str) -> Ran:
    return airboss("rollback", "chat", "--emergency", "--yes", "--reason", "bad answers", *more, cwd=where.root)


def zeroed(store: Paths) -> str:
    store.store.write_bytes(b"")
    return "store_gone"


def zero_filled(store: Paths) -> str:
    store.store.write_bytes(b"\0" * store.store.stat().st_size)
    return "store_corrupt"


def gone(store: Paths) -> str:
    for path in (store.store, store.store.with_name("state.db-wal"), store.store.with_name("state.db-shm")):
        path.unlink(missing_ok=True)
    return "store_gone"


def of_a_newer_program(store: Paths) -> str:
    with sqlite3.connect(store.store) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    return "newer_schema"


def half_restored(store: Paths) -> str:
    store.store.with_name("restore.unfinished").write_text("{}")
    return "half_restored"


@pytest.mark.parametrize("damage", [zeroed, of_a_newer_program])
def test_where_the_engine_cannot_start_the_way_back_goes_through_the_gateway(
    store: Paths, gateway: Gateway, damage: Callable[[Paths], str]
) -> None:
    """The engine refuses with a sentence and a way out, and users are back on the good release."""
    gateway.worker()
    code = damage(store)
    assert engine_refuses(store).startswith(f"{code}: ")
    ran = roll_back(store)
    assert ran.code == 0, ran.err
    assert gateway.releases(30) == {GOOD}
    assert len(list((store.state / "spill").glob("*.json"))) == 1


@pytest.mark.parametrize("damage", [zeroed, zero_filled, gone, of_a_newer_program, half_restored])
def test_no_new_store_is_made_where_one_was(store: Paths, damage: Callable[[Paths], str]) -> None:
    """Cases 18 and 20: an empty store in its place would take all that serves for strays."""
    code = damage(store)
    size = store.store.stat().st_size if store.store.exists() else None
    with pytest.raises(AirbossError) as refused:
        Store.open(store.store)
    assert refused.value.code == code and refused.value.hint
    assert (store.store.stat().st_size if store.store.exists() else None) == size


def test_a_store_locked_by_another_process_does_not_hinder_it(store: Paths, gateway: Gateway) -> None:
    """Case 17: nothing of the store is needed, not even to read."""
    gateway.worker()
    with sqlite3.connect(store.store, isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        began = time.monotonic()
        assert roll_back(store).code == 0
        took = time.monotonic() - began
    other.close()
    assert gateway.releases(30) == {GOOD}
    assert took < 25, "it waited for the lock"


def test_the_plan_file_alone_is_enough(store: Paths, gateway: Gateway) -> None:
    gateway.worker()
    for path in list(store.state.iterdir()):
        if path.name not in ("run", "rollback", "logs"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert roll_back(store).code == 0
    assert gateway.releases(30) == {GOOD}


@pytest.fixture
def full_disk(paths: Paths) -> Iterator[Paths]:
    """The workspace's state on a disk of its own, which can be filled."""
    kept = [(path.relative_to(paths.state), path.is_dir()) for path in sorted(paths.state.rglob("*"))]
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=72m,mode=700", "tmpfs", paths.state],
                             capture_output=True, text=True, check=False)  # fmt: skip
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    for name, is_dir in kept:
        if is_dir:
            (paths.state / name).mkdir(parents=True, exist_ok=True)
    try:
        yield paths
    finally:
        subprocess.run(["umount", "-l", paths.state], check=True)


@pytest.mark.deep
def test_on_a_full_disk_the_record_is_written_from_the_reserve(full_disk: Paths) -> None:
    """Case 16: traffic first, and the reserve is there for the record."""
    opened = Store.open(full_disk.store)
    opened.write_now(the_record)
    opened.close()
    deck = Gateway(full_disk)
    try:
        deck.worker()
        assert full_disk.reserve.stat().st_size == 64 << 20
        with (full_disk.state / "filler").open("ab", buffering=0) as file:
            for size in (1 << 16, 512, 1):
                with contextlib.suppress(OSError):
                    while file.write(b"\0" * size):
                        pass
        ran = roll_back(full_disk)
        assert ran.code == 0, ran.err
        assert deck.releases(30) == {GOOD}
        assert len(list((full_disk.state / "spill").glob("*.json"))) == 1, ran.err
        assert not full_disk.reserve.exists()
    finally:
        deck.close()


@pytest.mark.deep
@needs_haproxy
def test_behind_haproxy_it_is_the_same_command(store: Paths, gateway: Gateway) -> None:
    gateway.table["routes"][0].pop("routing")
    (store.gateway / "table.json").write_text(json.dumps(gateway.table))
    gateway.worker("engine.gateway.haproxy.worker")
    until(lambda: gateway.releases(30) == {GOOD, BAD})
    ran = roll_back(store)
    assert ran.code == 0, ran.err
    assert gateway.releases(30) == {GOOD}


def imported(where: Paths) -> int:
    opened = Store.open(where.store)
    try:
        return asyncio.run(import_spill(opened, where.state / "spill", load_config(where.root)))
    finally:
        opened.close()


def what_is_recorded(where: Paths) -> tuple[int, str, list[tuple[str, int]]]:
    with sqlite3.connect(where.store) as db:
        (acts,) = db.execute("SELECT count(*) FROM audit WHERE action = 'rollback.emergency'").fetchone()
        (state,) = db.execute("SELECT state FROM rollout WHERE id = 'ro-2'").fetchone()
        tracks = db.execute("SELECT release_id, weight FROM track WHERE weight > 0").fetchall()
    db.close()
    return acts, state, tracks


@pytest.mark.deep
@pytest.mark.parametrize("point", ["nowhere", "before the commit", "after the commit"])
def test_the_next_engine_takes_the_record_up_exactly_once(store: Paths, gateway: Gateway, point: str) -> None:
    """Also when it is killed while it does: the act is in the same transaction as the mark that it was taken up."""
    gateway.worker()
    assert roll_back(store).code == 0
    if point != "nowhere":
        pid = os.fork()
        if not pid:

            def killed(*_: Any) -> None:
                os.kill(os.getpid(), signal.SIGKILL)

            if point == "before the commit":
                Session.commit = killed  # type: ignore[method-assign]
            else:
                os.replace = killed  # type: ignore[assignment]
            imported(store)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert imported(store) == (0 if point == "after the commit" else 1)
    assert imported(store) == 0
    assert what_is_recorded(store) == (1, "rolling_back", [(GOOD, 100)])
    assert [path.suffix for path in (store.state / "spill").iterdir()] == [".imported"]


def test_after_a_zeroed_store_a_restore_knows_of_the_rollback_too(store: Paths, gateway: Gateway) -> None:
    gateway.worker()
    take(store.store, reason="test", directory=store.backups, config=None)
    zeroed(store)
    assert roll_back(store).code == 0
    ran = airboss("state", "restore", "--yes", "--confirm-name", "shop", "--reason", "zeroed", cwd=store.root)
    assert ran.code in (0, 1), ran.err
    assert imported(store) == 1
    assert what_is_recorded(store) == (1, "rolling_back", [(GOOD, 100)])


@pytest.fixture
def ended(paths: Paths) -> Iterator[ExitStack]:
    """Ends the model servers that a command left, as it should leave them."""
    with ExitStack() as stack:
        yield stack
        for child in serving_children(paths, ("model",)):
            os.kill(int(child["pid"]), signal.SIGKILL)


def cold_plan(where: Paths, gateway: Gateway, bundle: Path, digest: str) -> ReplicaSetSpec:
    """The kept plan as the engine writes it, of a release of which nothing runs."""
    spec = ReplicaSetSpec("chat", "production", GOOD, digest, bundle, 1, {})
    route = gateway.route([("stable", GOOD, 100, "good")])
    route["backends"][0]["replicas"] = []
    gateway.table["routes"][0]["backends"][0]["replicas"] = []
    (where.gateway / "table.json").write_text(json.dumps(gateway.table))
    start = [
        {"owner": owner_of(spec, 0), "module": MODULE, "digest": digest, "payload": server_payload(spec, 1, False)}
    ]
    plan = {
        "service": "chat",
        "env": "production",
        "made_at": time.time(),
        "to_release": GOOD,
        "route": route,
        "start": start,
    }
    (where.rollback / "chat@production.json").write_text(json.dumps(plan))
    return spec


@pytest.mark.deep
def test_a_cold_release_is_started_first_and_the_next_engine_adopts_it(
    store: Paths, gateway: Gateway, ended: ExitStack
) -> None:
    """Capacity before traffic, without an engine: the replica is one that the engine takes for its own."""
    config = GPTConfig(n_layer=1, n_head=1, n_embd=8, block_size=8, vocab_size=len(CHARS))
    digest = gpt_bundle(store.releases / GOOD, config, release_id=GOOD)
    spec = cold_plan(store, gateway, store.releases / GOOD, digest)
    gateway.worker()
    ran = roll_back(store)
    assert ran.code == 0, ran.err
    assert gateway.releases(10) == {GOOD}
    (child,) = serving_children(store, ("model",))

    async def adopted() -> int:
        opened = Store.open(store.store)
        supervisor = Supervisor(Spawner(store.run, store.logs), opened, store.sockets, Backoff(), lambda owner: None)
        try:
            assert await import_spill(opened, store.state / "spill", load_config(store.root)) == 1
            runtime = LocalRuntime(supervisor, threads=1, crash_loop_after=3)
            await runtime.ensure(spec)
            await supervisor.end_strays(("model",), 1.0)
            (place,) = supervisor.of("model")
            return place.child.pid
        finally:
            await supervisor.detach()
            opened.close()

    assert asyncio.run(adopted()) == child["pid"]
    assert gateway.releases(10) == {GOOD}


@pytest.mark.deep
def test_a_cold_release_that_does_not_start_gets_no_traffic_unless_one_says_so(store: Paths, gateway: Gateway) -> None:
    """Case 57: the target is gone. What serves goes on serving, and the sentence says what to run."""
    cold_plan(store, gateway, store.releases / "nowhere", "ab" * 32)
    gateway.worker()
    ran = roll_back(store)
    assert ran.code == 1
    assert "no traffic was moved" in ran.err and "airboss serve" in ran.err and ".log" in ran.err
    served = gateway.served()
    assert served is not None and served["revision"] == 12
    assert not (store.state / "spill").exists()
    assert not serving_children(store, ("model",))
    assert roll_back(store, "--force").code == 0


def test_an_upgrade_that_fails_leaves_the_store_as_it_was(store: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """Case 20: the error says what failed, where the copy is, and what works meanwhile."""
    from alembic import command

    from state import migrate

    was = migrate.current_revision(store.store)
    monkeypatch.setattr(migrate, "HEAD", "next")

    def half(*_: Any) -> None:
        raise RuntimeError("column frobs: no such thing")

    monkeypatch.setattr(command, "upgrade", half)
    with pytest.raises(OperationFailed, match=r"column frobs.*is as it was") as refused:
        Store.open(store.store)
    assert refused.value.code == "upgrade_failed" and "--emergency" in refused.value.hint
    assert [path.name.rpartition("-")[2] for path in store.backups.glob("*.db")] == ["upgrade.db"]
    monkeypatch.undo()
    again = Store.open(store.store)
    assert again.read_now(audit.verify).rows == 1
    again.close()
    assert migrate.current_revision(store.store) == was
