"""The README's example of automation, taken from it and played on a living engine with users."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chaos_workspace import CANARY, RELEASES, SERVICE, Workspace
from patience import until

README = Path(__file__).parents[2] / "README.md"
BIN = Path(sys.executable).parent


def examples() -> tuple[str, str]:
    """`ship.air` and `ship.sh`, as the README has them."""
    text = README.read_text(encoding="utf-8").partition("## Automation")[2].partition("\n## ")[0]
    script, shell = re.findall(r"```(?:sh)?\n(.*?)```", text, flags=re.DOTALL)
    return script, shell


def ship(ws: Workspace, release: str, job: str, *more: str) -> tuple[int, str, list[dict[str, Any]]]:
    """Run ship.sh as a CI job does: the exit code, its last word, and the script's events."""
    script, shell = examples()
    (ws.root / "ship.air").write_text(script)
    env = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "REL": release, "JOB": job}
    shell = shell.replace("--timeout", f"{' '.join(more)} --timeout") if more else shell
    done = subprocess.run(["bash", "-c", shell], cwd=ws.root, env=env, capture_output=True, text=True, timeout=300)
    events = [json.loads(line) for line in (ws.root / "ship.jsonl").read_text().splitlines()]
    return done.returncode, done.stdout.strip(), events


def users_are_on(ws: Workspace, release: str) -> bool:
    """Every worker sends all requests to the release; others may be kept warm."""
    return all({name: share for name, share in weights.items() if share} == {release: 100} for weights in ws.weights())


@pytest.mark.deep
def test_the_readme_s_script_ships_asks_again_and_comes_back(workspace: Callable[..., Workspace]) -> None:
    ws = workspace()
    toml = ws.root / "airboss.toml"
    text = toml.read_text().replace('warm_hold = "2s"', 'warm_hold = "30m"')  # as it is by default
    toml.write_text(
        text.replace("latency_p95_ms = 5000", "latency_p95_ms = 60000")
    )  # a busy machine is not the subject
    ws.serve()
    users = ws.users()
    code, said, events = ship(ws, CANARY, "job-1")
    assert (code, said) == (0, f"{CANARY} is live"), json.dumps(events)
    assert [e["line"] for e in events] == list(range(2, 8)) and all(e["ok"] for e in events)
    assert events[3]["outcome"] == "completed"
    until(lambda: users_are_on(ws, CANARY), "all users have the new release")

    # The job is run again: the same answer, and nothing is done twice.
    code, said, again = ship(ws, CANARY, "job-1")
    assert (code, said) == (0, f"{CANARY} is live"), again[-1]
    assert again[1]["items"][0]["replayed"] and again[1]["items"][0]["ref"] == events[1]["items"][0]["ref"]
    assert len(ws.rows("SELECT id FROM rollout WHERE to_release = ?", CANARY)) == 1
    assert len(ws.rows("SELECT id FROM audit WHERE action = 'note'")) == 1

    # An expectation that cannot hold: the way out brings the release before back.
    code, said, events = ship(ws, RELEASES[2], "job-2", "--set BUDGET=2")
    assert (code, "users are on the release before" in said) == (8, True), events
    assert {e["line"]: e["exit"] for e in events}[6] == 8
    (back,) = ws.rows("SELECT id FROM rollout WHERE reason = ?", f"ship {RELEASES[2]} failed")
    ws.wait_for(back["id"], "rolled_back")
    until(lambda: users_are_on(ws, CANARY), "all users are on the release before")
    assert users.stop().failed == 0 and SERVICE == "chat"
