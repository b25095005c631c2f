"""Case 17, played: another process holds the store of a living engine locked, for longer than a write waits."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from chaos_workspace import CANARY, ENV, SERVICE, Workspace, get, say
from patience import until

AIRBOSS = Path(sys.executable).with_name("airboss")
HOLDS = (
    "import sqlite3, sys, time; c = sqlite3.connect(sys.argv[1], isolation_level=None); c.execute('BEGIN IMMEDIATE');"
    " print('holds', flush=True); time.sleep(600)"
)


@contextmanager
def locked(store: Path) -> Iterator[int]:
    """Another process in the middle of a transaction; its pid."""
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(store)], stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None and other.stdout.readline() == "holds\n"
            yield other.pid
        finally:
            other.kill()


def status(ws: Workspace) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(get(ws.paths.engine_socket, "/v1/status"))
    return found


@pytest.mark.long
@pytest.mark.timeout(300)
def test_case_17_a_locked_store_is_said_costs_no_user_anything_and_the_engine_goes_on(
    workspace: Callable[..., Workspace],
) -> None:
    ws = workspace()
    ws.serve()
    engine = ws.engines[-1]
    users = ws.users()
    with locked(ws.paths.store) as pid:
        began = time.monotonic()
        words = ["deploy", SERVICE, CANARY, "--env", ENV, "--yes", "--confirm-name", SERVICE, "-o", "json"]
        asked = subprocess.Popen(
            [AIRBOSS, "--workspace", ws.root, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        until(lambda: status(ws)["store_trouble"], "the status says that a write waits")
        say(f"said after {time.monotonic() - began:.1f} s: {status(ws)['store_trouble']}")
        assert f"process {pid}" in status(ws)["store_trouble"]
        _, told = asked.communicate(timeout=120)
        error = json.loads(told.strip().splitlines()[-1])["error"]
        say(f"refused after {time.monotonic() - began:.1f} s: {error['message']} ({error['hint']})")
        assert (asked.returncode, error["code"]) == (6, "store_locked")
        assert f"process {pid}" in error["message"] and "--emergency" in error["hint"]
        seen = users.seen()
    until(lambda: not status(ws)["store_trouble"], "writes go through again")
    assert engine.poll() is None, "no loop died of it"
    rollout = ws.deploy()
    ws.wait_for(rollout, "step_baking")
    until(lambda: users.answered_since(seen) > 20, "users go on")
    report = users.stop()
    assert report.failed == 0
    assert ws.chain().is_whole
