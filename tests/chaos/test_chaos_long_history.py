"""Case 70, played: an engine over a million audit rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from chaos_workspace import Workspace, get, say
from large_history import ROWS_A_ROLLOUT, lengthen

AIRBOSS = Path(sys.executable).with_name("airboss")
ROWS = 1_000_000
ROUNDS = 3
MORE_CPU_S = 2.0
"""What the history may cost a start. Processor time: the host may be busy with other things."""


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def begin(ws: Workspace) -> tuple[float, float]:
    """(processor, wall) seconds until the engine answers."""
    began = time.monotonic()
    process = ws.start()
    spent = cpu_s(process.pid), time.monotonic() - began
    ws.kill_engine()
    return spent


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_case_70_a_million_audit_rows_delay_no_start_and_are_read_in_pages(
    workspace: Callable[..., Workspace],
) -> None:
    ws = workspace()
    short = min(begin(ws) for _ in range(ROUNDS))
    lengthen(ws.paths.store, ROWS)
    long = min(begin(ws) for _ in range(ROUNDS))
    size_mb = ws.paths.store.stat().st_size / 1e6
    say(
        f"{ROWS} audit rows, {size_mb:.0f} MB: {short[0]:.1f} → {long[0]:.1f} s of processor, {short[1]:.1f} → {long[1]:.1f} s"
    )
    assert long[0] - short[0] < MORE_CPU_S
    process = ws.start()
    status = json.loads(get(ws.paths.engine_socket, "/v1/status"))
    assert status["audit_rows"] > ROWS and status["audit_ok"] and status["audit_unchecked"] > 0
    took = {}
    for path in (
        "/v1/audit?limit=200",
        f"/v1/audit?limit=200&after={ROWS // 2}",
        "/v1/audit?ref=rollout/ro-70",
        "/v1/snapshot",
    ):
        took[path] = float("inf")
        for _ in range(ROUNDS):
            began = time.monotonic()
            answer = json.loads(get(ws.paths.engine_socket, path))
            took[path] = min(took[path], time.monotonic() - began)
            rows = len(answer["audit"] if isinstance(answer, dict) else answer)
            assert rows == (ROWS_A_ROLLOUT if "ref" in path else 200)
    say(", ".join(f"{path}: {seconds:.2f} s" for path, seconds in took.items()))
    assert max(took.values()) < 5.0, "a console waits no longer for an answer"
    verified = subprocess.run(
        [AIRBOSS, "--workspace", ws.root, "audit", "verify"], capture_output=True, text=True, check=False, timeout=600
    )
    assert verified.returncode == 0 and "whole: 100" in verified.stdout, verified.stderr
    assert "no engine answers" not in verified.stderr, "it was asked of the engine, and had the time it takes"
    assert process.poll() is None
