"""What `doctor` says of clusters: whether they answer us, and what we are not allowed there before an incident asks for it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from state.config import Config
from state.words import ExitCode

PROGRAM = "adapters.kubernetes.permissions"
TIMEOUT_S = 40.0
Level = Literal["ok", "warn", "fail"]
Finding = tuple[str, Level, str, str]
"""(name, ok, warn or fail, what was found, what to do)."""


def findings(config: Config, root: Path) -> Iterator[Finding]:
    """One finding a cluster; none where everything runs here."""
    if all(settings.cluster is None for settings in config.environment.values()):
        return
    try:
        # A process of its own: the console imports no cluster's library.
        ran = subprocess.run(
            [sys.executable, "-P", "-m", PROGRAM, str(root)],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
    except (subprocess.TimeoutExpired, OSError) as error:
        yield "cluster", "warn", f"nobody could be asked: {error}", "is the cluster up, and reachable from here?"
        return
    for line in ran.stdout.splitlines():
        said = json.loads(line)
        name = f"cluster of {said['env']}"
        if trouble := said.get("error"):
            level: Level = "fail" if trouble["exit"] == ExitCode.DENIED else "warn"
            yield name, level, trouble["message"], trouble["hint"]
        elif said["missing"]:
            found = f"not allowed in namespace {said['namespace']}: {', '.join(said['missing'])}"
            yield name, "fail", found, "let the Role there say " + " ".join(said["rules"])
        else:
            gpus = f"; {said['gpus']}" if said["gpus"] else ""
            yield name, "ok", f"all that a rollout needs is allowed in namespace {said['namespace']}{gpus}", ""
    if ran.returncode:
        last = (ran.stderr.strip().splitlines() or ["no word"])[-1]
        yield (
            "cluster",
            "warn",
            f"what is allowed could not be asked: {last}",
            "`airboss status` says what the engine has seen",
        )
