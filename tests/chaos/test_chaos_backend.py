"""A service behind a foreign server in a whole workspace: engine, gateway, front and program, and kills between them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from chaos_workspace import SERVICE, Workspace, get, kill
from patience import until

pytestmark = pytest.mark.deep

MakeWorkspace = Callable[..., Workspace]
FOREIGN = Path(__file__).parents[1] / "integration" / "foreign_server.py"


def table() -> str:
    command = [sys.executable, str(FOREIGN), "--port", "{port}"]
    return (
        f"\n[service.{SERVICE}.serving]\nbackend = 'command'\nmax_inflight = 10\ncommand = {json.dumps(command)}\n"
        f"[service.{SERVICE}.autoscale]\nmin = 1\nmax = 2\n"
    )


def test_a_foreign_replica_is_served_adopted_and_replaced_like_one_of_ours(workspace: MakeWorkspace) -> None:
    ws = workspace()
    config = ws.root / "airboss.toml"
    config.write_text(config.read_text() + table())
    ws.start()
    until(ws.is_serving, "the gateway answers with the foreign server's words")

    def front() -> psutil.Process | None:
        served = json.loads(get(ws.paths.engine_socket, "/v1/serving"))
        found = [r for r in served if r["kind"] == "model" and r["state"] == "ready"]
        return psutil.Process(found[0]["pid"]) if found else None

    first = until(front, "a replica is ready")
    ws.kill_engine()
    ws.start()
    assert until(front, "the replica is adopted").pid == first.pid
    program = next(p for p in first.children(recursive=True) if str(FOREIGN) in p.cmdline())
    kill(program.pid)

    def is_replaced() -> bool:
        found: Any = front()
        return found is not None and found.pid != first.pid and ws.is_serving()

    until(is_replaced, "another replica stands in for the one whose program was killed")

    def is_measured() -> bool:
        (view,) = json.loads(get(ws.paths.engine_socket, f"/v1/services/{SERVICE}/capacity"))
        ws.is_serving()
        return bool(view["requests"]) and view["concurrency"] == 10 and view["wanted"] == 1

    until(is_measured, "the capacity advice has seen requests")
