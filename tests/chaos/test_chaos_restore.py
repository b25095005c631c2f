"""A restore under traffic: the engine comes back with an older record, moves no user, and says what differs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chaos_workspace import CANARY, STABLE, Workspace, get
from patience import until

pytestmark = pytest.mark.deep

MakeWorkspace = Callable[..., Workspace]
AIRBOSS = Path(sys.executable).with_name("airboss")


def airboss(ws: Workspace, *words: str, code: int = 0) -> Any:
    done = subprocess.run(
        [AIRBOSS, "--workspace", ws.root, "-o", "json", *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)["items"]


def test_after_a_restore_users_stay_where_they_are_until_a_person_settles_it(workspace: MakeWorkspace) -> None:
    ws = workspace()
    ws.serve()
    users = ws.users(rps=10.0)
    airboss(ws, "state", "backup")
    rollout_id = ws.deploy()
    ws.wait_for(rollout_id, "step_baking", 0)
    until(lambda: ws.weights() == [{STABLE: 75, CANARY: 25}] * 2, "a quarter of the users meet the canary")
    ws.kill_engine()
    servers = {p.pid for p in ws.servers()}
    airboss(ws, "state", "restore", "--yes", "--confirm-name", ws.root.name, "--reason", "a drill")
    ws.start()
    assert json.loads(get(ws.paths.engine_socket, "/v1/status"))["state"] == "paused (restored)"
    assert not ws.rows("SELECT id FROM rollout WHERE id = ?", rollout_id), "the record does not know of it"
    found = {(d["kind"], d["world"]) for d in airboss(ws, "state", "diff", "--detailed-exitcode", code=10)}
    assert found == {("weights", f"{STABLE} 75 %, {CANARY} 25 %"), ("replicas", f"1 of {CANARY} run")}
    seen = users.seen()
    until(lambda: users.answered_since(seen) > 30, "users go on")
    assert ws.weights() == [{STABLE: 75, CANARY: 25}] * 2 and {p.pid for p in ws.servers()} == servers
    ws.kill_engine()
    ws.start()
    assert ws.weights() == [{STABLE: 75, CANARY: 25}] * 2, "another engine leaves it alone too"
    airboss(ws, "state", "enforce", "chat", "--yes", "--confirm-name", "chat")
    assert ws.weights() == [{STABLE: 100}] * 2
    assert json.loads(get(ws.paths.engine_socket, "/v1/status"))["state"] == "running"
    (row,) = ws.rows("SELECT actor, reason FROM audit WHERE action = 'state.restore'")
    assert row["actor"].startswith("user:") and row["reason"] == "a drill"
    report = users.stop()
    assert report.failed == 0, report
