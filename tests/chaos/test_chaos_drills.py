"""`airboss drill`: each on a live workspace with real processes; what it measured stays in the audit log."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chaos_workspace import STABLE, Workspace, get, say

pytestmark = pytest.mark.deep

MakeWorkspace = Callable[..., Workspace]
AIRBOSS = Path(sys.executable).with_name("airboss")
CONFIRMED = ("--yes", "--confirm-name", "chat", "--reason", "game day")


def command(ws: Workspace, *words: str) -> None:
    subprocess.run([AIRBOSS, "--workspace", ws.root, *words], check=True, timeout=120, capture_output=True)


def drill(ws: Workspace, *words: str, code: int = 0) -> dict[str, Any]:
    """What a drill printed, or the error it gave."""
    done = subprocess.run([AIRBOSS, "--workspace", ws.root, "-o", "json", "drill", *words],
                          capture_output=True, text=True, timeout=300, check=False)  # fmt: skip
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}\n{ws.log_tail()}"
    if not done.stdout:
        error: dict[str, Any] = json.loads(done.stderr.strip().splitlines()[-1])["error"]
        return error
    (item,) = json.loads(done.stdout)["items"]
    say(f"drill {words[0]}: {item['measured']}")
    return dict(item)


def test_a_rollback_and_a_restore_are_drilled_and_the_last_ones_age_is_on_the_screen(workspace: MakeWorkspace) -> None:
    ws = workspace()
    ws.serve()
    assert drill(ws, "rollback", "chat", "--yes", code=2)["code"] == "confirm", "a protected environment wants a name"
    went = drill(ws, "rollback", "chat", *CONFIRMED, "--target", "60s")
    assert went["outcome"] == "met" and went["measured"]["failed_requests"] == 0
    assert 0 <= went["measured"]["last_user_s"] <= 60 and went["measured"]["requests"] > 0
    twins = ws.rows("SELECT parent_id FROM release WHERE id LIKE 'drill-%'")
    assert [row["parent_id"] for row in twins] == [STABLE], "a twin was rolled back; no real release was rejected"
    missed = drill(ws, "restore", "chat", *CONFIRMED, "--target", "1ms", code=8)
    assert missed["outcome"] == "missed" and missed["measured"]["rto_s"] > 0.001
    assert missed["measured"]["bundles"] == 1 and "rpo_s" in missed["measured"]
    rows = ws.rows("SELECT actor, reason, detail FROM audit WHERE action = 'drill.finish' ORDER BY id")
    assert [json.loads(row["detail"])["outcome"] for row in rows] == ["met", "missed"]
    assert {row["reason"] for row in rows} == {"game day"}
    last = json.loads(get(ws.paths.engine_socket, "/v1/status"))["drill"]
    assert (last["name"], last["outcome"]) == ("restore", "missed")
    ws.assert_in_order()
    ws.assert_serves_only(STABLE)


@pytest.mark.long
def test_a_killed_engine_the_judge_and_the_emergency_are_drilled(workspace: MakeWorkspace) -> None:
    ws = workspace()
    ws.serve()
    assert drill(ws, "slo", "chat", *CONFIRMED, code=7)["code"] == "fault", "faults are not allowed there"
    assert drill(ws, "kill", "chat", *CONFIRMED, "--target", "300s")["outcome"] == "met"
    went = drill(ws, "emergency", "chat", *CONFIRMED, "--target", "120s")
    assert went["outcome"] == "met" and went["measured"]["imported_s"] > 0
    assert len(ws.rows("SELECT id FROM audit WHERE action = 'rollback.emergency'")) == 1
    command(ws, "down", "--yes")
    config = ws.root / "airboss.toml"
    config.write_text(config.read_text().replace('policy = "quick"', 'policy = "quick"\nallow_faults = true'))
    command(ws, "up", "-d")
    went = drill(ws, "slo", "chat", *CONFIRMED, "--target", "300s")
    assert went["outcome"] == "met" and went["measured"]["found_s"] > 0
    for name in ("replica", "gateway"):
        assert drill(ws, name, "chat", *CONFIRMED, "--target", "120s")["measured"]["back_s"] > 0
    ws.assert_in_order()
    ws.assert_serves_only(STABLE)
