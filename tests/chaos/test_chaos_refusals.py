"""What must not begin, or must go back: a second engine, a taken port, damaged files, a full disk, a dead engine."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from chaos_workspace import CANARY, STABLE, Workspace, opened, say
from patience import until

from state.words import AirbossError

pytestmark = pytest.mark.deep

MakeWorkspace = Callable[..., Workspace]
AIRBOSS = Path(sys.executable).with_name("airboss")


def engine_says(ws: Workspace) -> tuple[int, str]:
    """Start an engine that must refuse: its exit code and its sentence."""
    command = [sys.executable, "-P", "-m", "engine.daemon", "--workspace", str(ws.root)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=ws.root)
    error = json.loads(ended.stderr.strip().splitlines()[-1])["error"]
    assert error["exit"] == ended.returncode
    return ended.returncode, error["message"]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_one_engine_a_workspace_and_nothing_stale_hinders_it(workspace: MakeWorkspace) -> None:
    ws = workspace()
    first = ws.start()
    code, said = engine_says(ws)
    assert code == 6 and "running" in said and str(first.pid) in said
    assert ws.health_pid() == first.pid, "the first one noticed nothing"
    ws.kill_engine()
    assert ws.paths.engine_socket.exists() and ws.paths.engine_info.exists(), "a killed engine leaves both behind"
    second = ws.start()
    assert json.loads(ws.paths.engine_info.read_text())["pid"] == second.pid
    ws.kill_engine()
    ws.paths.engine_info.write_text("{ not json")
    # A damaged store: said, and not touched.
    for path in (ws.paths.store.with_name("state.db-wal"), ws.paths.store.with_name("state.db-shm")):
        path.unlink(missing_ok=True)
    with ws.paths.store.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(3 * 4096))
    before = sha256(ws.paths.store)
    code, said = engine_says(ws)
    assert code == 1 and "damaged" in said and str(ws.paths.store) in said
    assert sha256(ws.paths.store) == before


def test_a_port_that_is_taken_is_a_sentence_and_nothing_runs(workspace: MakeWorkspace) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ws = workspace(port=taken.getsockname()[1])
        code, said = engine_says(ws)
        assert code == 2 and str(taken.getsockname()[1]) in said
        assert not ws.processes()
        assert not ws.paths.engine_socket.exists() and not ws.paths.engine_info.exists()


def test_a_release_with_a_flipped_bit_goes_back_before_any_user_meets_it(
    workspace: MakeWorkspace, tmp_path: Path
) -> None:
    ws = workspace()
    ws.serve()
    bundle = tmp_path / "bundle"
    (path,) = ws.rows("SELECT bundle_path FROM release WHERE id = ?", CANARY)
    shutil.copytree(path["bundle_path"], bundle)
    weights = bytearray((bundle / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (bundle / "model.safetensors").write_bytes(weights)
    ws.kill_engine()
    ws.change("UPDATE release SET bundle_path = ? WHERE id = ?", str(bundle), CANARY)
    ws.start()
    users = ws.users(rps=10.0)
    rollout_id = ws.deploy()
    ws.wait_for(rollout_id, "rolled_back")
    assert ws.path(rollout_id) == [("planned", 0), ("preparing", 0), ("rolling_back", 0), ("rolled_back", 0)]
    assert "model.safetensors was altered" in ws.message(rollout_id)
    report = users.stop()
    assert report.failed == 0 and set(report.by_release) == {STABLE}, report
    assert {line["release"] for line in ws.ledger()} <= {STABLE}
    ws.assert_in_order()
    ws.assert_serves_only(STABLE)


def test_case_44_a_release_that_disappears_after_its_approval_meets_no_user(
    workspace: MakeWorkspace, tmp_path: Path
) -> None:
    ws = workspace()
    ws.serve()
    (path,) = ws.rows("SELECT bundle_path FROM release WHERE id = ?", CANARY)
    bundle = tmp_path / "bundle"
    shutil.copytree(path["bundle_path"], bundle)
    ws.kill_engine()
    ws.change("UPDATE release SET bundle_path = ? WHERE id = ?", str(bundle), CANARY)
    ws.start(
        script=Path(__file__).with_name("crashing_engine.py"), CHAOS_POINTS=str(ws.root / "points"),
        CHAOS_CRASH_AT="after commit&rollout planned",
    )  # fmt: skip
    with suppress(AirbossError):
        ws.deploy()
    ws.engines[-1].wait(60)
    shutil.rmtree(bundle)  # planned, and gone before its first replica is started
    ws.start()
    (row,) = ws.rows("SELECT id FROM rollout WHERE to_release = ?", CANARY)
    ws.wait_for(row["id"], "rolled_back")
    assert [state for state, _ in ws.path(row["id"])] == ["planned", "preparing", "rolling_back", "rolled_back"]
    ws.assert_in_order()
    ws.assert_serves_only(STABLE)
    assert {line["release"] for line in ws.ledger()} <= {STABLE}


def test_an_emergency_rollback_without_an_engine_holds_when_it_returns(workspace: MakeWorkspace) -> None:
    ws = workspace()
    ws.serve()
    users = ws.users()
    rollout_id = ws.deploy()
    ws.wait_for(rollout_id, "step_baking", 0)
    plan = ws.paths.rollback / "chat@production.json"
    until(lambda: plan.exists() and json.loads(plan.read_text())["to_release"] == STABLE, "the way back is kept ready")
    ws.kill_engine()
    began = time.time()
    words = ["rollback", "chat", "--env", "production", "--emergency", "--yes", "--reason", "the engine is gone"]
    done = subprocess.run(
        [AIRBOSS, "--workspace", ws.root, *words], capture_output=True, text=True, timeout=120, check=False
    )
    ended = time.time()
    assert done.returncode == 0, done.stderr
    assert ws.weights() == [{STABLE: 100}] * 2
    before = users.seen()
    until(lambda: users.answered_since(before) > 20, "users go on")
    ws.start()
    ws.wait_for(rollout_id, "rolled_back")
    assert ws.weights() == [{STABLE: 100}] * 2
    assert ws.path(rollout_id)[-2:] == [("rolling_back", 0), ("rolled_back", 0)]
    (row,) = ws.rows("SELECT actor, reason FROM audit WHERE action = 'rollback.emergency'")
    assert row["actor"].startswith("user:") and row["reason"] == "the engine is gone"
    ws.assert_in_order()
    ws.assert_serves_only(STABLE)
    report = users.stop()
    assert report.failed == 0, report
    until(lambda: len(ws.ledger()) >= report.answered, "the ledger is written")
    late = [line["at"] for line in ws.ledger() if line["release"] == CANARY and line["at"] > ended]
    assert not late, "no user met the canary after the command"
    took = max((line["at"] for line in ws.ledger() if line["release"] == CANARY), default=began) - began
    say(f"the canary's last request came {took:.2f} s after the command began; the command took {ended - began:.2f} s")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, small enough to be filled."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=112m,mode=700", "tmpfs", disk], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def fill(disk: Path) -> None:
    """Leave not one block."""
    with (disk / "filler").open("ab", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            while True:
                try:
                    file.write(b"\0" * size)
                except OSError:
                    break


def test_on_a_full_disk_nothing_goes_forward_and_a_rollback_is_still_written(
    small_disk: Path, template: Path, workspace: MakeWorkspace
) -> None:
    # `workspace` is there for the short socket directory that it sets; the workspace itself stands on the small disk.
    with opened(small_disk / "ws", template) as ws:
        ws.serve()
        users = ws.users()
        rollout_id = ws.deploy()
        ws.wait_for(rollout_id, "step_baking", 0)
        assert ws.paths.reserve.stat().st_size == 64 << 20
        fill(small_disk)
        before = ws.path(rollout_id)

        def refused() -> str:
            try:
                ws.ask("note", f"rollout/{rollout_id}", reason="x" * 20_000)
            except AirbossError as error:
                return error.message
            return ""

        said = until(refused, "a forward write is refused")
        assert "full" in said, said
        fill(small_disk)
        seen = users.seen()
        until(lambda: users.answered_since(seen) > 100, "users are answered on a full disk")
        assert users.seen().failed == 0, users.seen()
        assert ws.engines[-1].poll() is None, "the engine lives on"
        assert ws.path(rollout_id)[: len(before)] == before
        ws.ask("rollback", "service/chat", env="production", reason="the disk is full")
        ws.wait_for(rollout_id, "rolled_back")
        assert not ws.paths.reserve.exists(), "it was written from the reserve"
        ws.assert_in_order()
        ws.assert_serves_only(STABLE)
        report = users.stop()
        assert report.failed == 0, report
