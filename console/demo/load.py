"""The demo's users: the built-in load generator, as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from state.words import OperationFailed

STOP_S = 40.0


@dataclass(slots=True)
class Requests:
    """What the demo's users met, over all loads: by track and in all."""

    sent: int = 0
    answered: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    by_release: dict[str, Counter[str]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    p95_ms: float | None = None

    def add(self, report: dict[str, Any]) -> None:
        """Count one load's report in."""
        self.sent += int(report["sent"])
        for track, outcome in report["by_track"].items():
            self.answered[track] += outcome["answered"]
            self.failed[track] += outcome["failed"]
        for release, outcome in report["by_release"].items():
            counts = self.by_release.setdefault(release, Counter())
            counts.update({"answered": outcome["answered"], "failed": outcome["failed"]})
        self.errors.extend(report["errors"])
        self.p95_ms = report["p95_ms"]

    def to_json(self) -> dict[str, Any]:
        """For the demo's document."""
        tracks = sorted({*self.answered, *self.failed})
        return {
            "sent": self.sent,
            "answered": sum(self.answered.values()),
            "failed": sum(self.failed.values()),
            "by_track": {t: {"answered": self.answered[t], "failed": self.failed[t]} for t in tracks},
            "by_release": {r: dict(c) for r, c in sorted(self.by_release.items())},
            "errors": self.errors[:10],
        }


class Load:
    """One running load toward the gateway at `url`. `stop` ends it gently and returns its report."""

    def __init__(self, url: str, service: str, env: str, rps: float, log: Path, seed: int) -> None:
        command = [
            sys.executable, "-P", "-m", "engine.load_command", "--url", url, "--service", service, "--env", env,
            "--rps", str(rps), "--duration", "1800", "--max-tokens", "8", "--seed", str(seed),
        ]  # fmt: skip
        self.log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
                cwd=log.parent, env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )  # fmt: skip

    def latest(self) -> dict[str, Any] | None:
        """The newest line of the report, None before the first."""
        try:
            lines = self.log.read_text(encoding="utf-8").strip().splitlines()
            return dict(json.loads(lines[-1])) if lines else None
        except (OSError, ValueError):
            return None

    def stop(self) -> dict[str, Any]:
        """End it and return its last report. Raises OperationFailed when it left without one."""
        deadline = time.monotonic() + STOP_S
        # Before its first line it does not yet know how to end in order.
        while self.process.poll() is None and self.latest() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        report = self.latest()
        if report is None or report.get("type") != "END":
            raise OperationFailed(f"the load generator left without a report; see {self.log}")
        return report
