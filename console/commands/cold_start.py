"""Starting the model servers of a kept plan without an engine: as the engine would have, so that the next one adopts them.

Standard library only.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from console import diagnostics
from console.commands.switching import is_ready
from state.backup import write_whole
from state.paths import Paths
from state.words import CHILD_PROTOCOL, OperationFailed

POLL_S = 0.1
PROGRESS_S = 5.0


@dataclass(frozen=True, slots=True)
class Started:
    """A model server that was started here. The record takes all of it, for the engine that adopts it."""

    spawn_id: str
    owner: str
    digest: str
    release_id: str
    pid: int
    address: str


def start_all(paths: Paths, plan: Mapping[str, Any], timeout_s: float) -> list[Started]:
    """Start every replica that the plan names and wait until one answers at least.

    Raises OperationFailed, with the log and the command to run by hand, when none does; those started are then ended.
    """
    running = [_start(paths, entry, index) for index, entry in enumerate(plan["start"])]
    begun = told = time.monotonic()
    while time.monotonic() - begun < timeout_s:
        ready = [one for one, _ in running if is_ready(one.address)]
        if len(ready) == len(running):
            break
        if all(process.poll() is not None for _, process in running):
            break
        if ready and time.monotonic() - begun > timeout_s / 2:
            break
        if time.monotonic() - told >= PROGRESS_S:
            told = time.monotonic()
            diagnostics.note(
                f"{plan['to_release']} is starting ({told - begun:.0f} s), {len(ready)} of {len(running)} ready"
            )
        time.sleep(POLL_S)
    ready = [one for one, _ in running if is_ready(one.address)]
    if not ready:
        for _, process in running:
            process.kill()
            process.wait()
        raise _does_not_start(paths, plan, [one for one, _ in running])
    return [one for one, process in running if process.poll() is None]


def by_hand(plan: Mapping[str, Any]) -> str:
    """What a person can run to see why the release does not start."""
    bundle = str(plan["start"][0]["payload"]["bundle"])
    return f"airboss serve {shlex.quote(bundle)}"


def _start(paths: Paths, entry: Mapping[str, Any], index: int) -> tuple[Started, subprocess.Popen[bytes]]:
    spawn_id = f"m{int(time.time() * 1000) % 36**6:07x}{os.urandom(2).hex()}"
    paths.make()
    spec = {
        "spawn_id": spawn_id, "kind": "model", "run_dir": str(paths.run), "socket": str(paths.sockets / f"{spawn_id}.sock"),
        "digest": entry["digest"], "payload": entry["payload"], "protocol": CHILD_PROTOCOL,
    }  # fmt: skip
    spec_path = paths.run / f"{spawn_id}.spec.json"
    try:
        write_whole(spec_path, json.dumps(spec, sort_keys=True))
        with (paths.logs / f"{spawn_id}.log").open("ab") as out:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", str(entry["module"]), str(spec_path)],
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, cwd=paths.run, start_new_session=True,
                env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "PYTHONUNBUFFERED": "1", "PYTHONNOUSERSITE": "1"},
            )  # fmt: skip
    except OSError as error:
        raise OperationFailed(
            f"replica {index} of {entry['payload']['release_id']} could not be started: {error}",
            hint="free disk space or memory and run it again",
        ) from error
    release = str(entry["payload"]["release_id"])
    address = f"unix:{spec['socket']}"
    return Started(spawn_id, str(entry["owner"]), str(entry["digest"]), release, process.pid, address), process


def _does_not_start(paths: Paths, plan: Mapping[str, Any], tried: Sequence[Started]) -> OperationFailed:
    log = paths.logs / f"{tried[0].spawn_id}.log"
    for line in _last_lines(log):
        diagnostics.say(f"  {line}")
    return OperationFailed(
        f"{plan['to_release']} does not start, so no traffic was moved to it; its log is {log}",
        hint=f"`{by_hand(plan)}` shows why in the foreground; --force moves the traffic all the same",
        code="cold",
    )


def _last_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()[-6:]
    except OSError:
        return []
