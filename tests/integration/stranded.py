"""What an engine that is gone left behind: a workspace, a real gateway worker, two replicas; and the command line beside it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from patience import until

from adapters.local.child import ChildSpec
from console.init import template
from state.paths import Paths

AIRBOSS = str(Path(sys.executable).with_name("airboss"))
BACKEND = Path(__file__).with_name("gateway_backend.py")


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def items(self) -> Any:
        return json.loads(self.out)["items"]


def airboss(*words: str, cwd: Path) -> Ran:
    done = subprocess.run(
        [AIRBOSS, *words], cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )
    return Ran(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Paths]:
    """A workspace with its directories and no engine."""
    runtime = tempfile.mkdtemp(prefix="ab-", dir="/tmp")
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    monkeypatch.delenv("AIRBOSS_ENGINE", raising=False)
    monkeypatch.delenv("AIRBOSS_WORKSPACE", raising=False)
    root = tmp_path / "shop"
    root.mkdir()
    (root / "airboss.toml").write_text(template("shop", "chat", "127.0.0.1:0"))
    found = Paths.of(root)
    found.make()
    yield found
    shutil.rmtree(runtime)


class Gateway:
    """A real gateway worker and two replicas, left behind by an engine that is gone."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.processes: list[subprocess.Popen[bytes]] = []
        for name in ("good", "bad"):
            self._start(str(BACKEND), self.sock(name), name)
        route = self.route([("stable", "charlm-1", 75, "good"), ("canary", "charlm-2", 25, "bad")])
        route["routing"] = {"max_body_bytes": 100_000}
        self.table = {"revision": 12, "issued_at": time.time(), "default_env": "production", "routes": [route]}
        (paths.gateway / "table.json").write_text(json.dumps(self.table))
        plan = {"service": "chat", "env": "production", "made_at": time.time(), "to_release": "charlm-1",
                "route": self.route([("stable", "charlm-1", 100, "good")]), "admin_sockets": [self.sock("g-0")]}  # fmt: skip
        (paths.rollback / "chat@production.json").write_text(json.dumps(plan))

    def sock(self, name: str) -> str:
        return str(self.paths.sockets / f"{name}.sock")

    def route(self, backends: list[tuple[str, str, int, str]]) -> dict[str, Any]:
        return {
            "service": "chat", "env": "production", "target": "local", "rollout_id": "ro-2", "slow_ms": 300.0, "deadline_s": 10.0,
            "backends": [{"track": t, "release_id": r, "weight": w, "replicas": [[name, f"unix:{self.sock(name)}"]]}
                         for t, r, w, name in backends],
        }  # fmt: skip

    def worker(self, module: str = "engine.gateway.worker") -> subprocess.Popen[bytes]:
        payload = {"listen_fd": self.listener.fileno(), "worker": 0, "gateway_dir": str(self.paths.gateway), "max_inflight": 64,
                   "retries": 1, "fd_socket": self.sock("g-0.fd")}  # fmt: skip
        spec = ChildSpec("g-0", "gateway", self.paths.run, self.sock("g-0"), "", payload)
        spec.write(self.paths.run / "g-0.spec.json")
        started = self._start("-m", module, str(self.paths.run / "g-0.spec.json"))
        until(lambda: self.served() is not None)
        return started

    def _start(self, *argv: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-P", *argv], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True, pass_fds=(self.listener.fileno(),), env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        self.processes.append(process)
        return process

    def served(self) -> dict[str, Any] | None:
        from console.commands.admin_socket import request

        try:
            status, body = request(self.sock("g-0"), "GET", "/admin/table")
        except OSError:
            return None
        return dict(json.loads(body)) if status == 200 else None

    def releases(self, n: int = 20) -> set[str]:
        """Which releases answer n requests through the public port."""
        found = set()
        for _ in range(n):
            body = json.dumps({"model": "chat", "prompt": "x", "max_tokens": 1}).encode()
            url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/v1/completions"
            asked = urllib.request.Request(url, body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(asked, timeout=10) as answer:
                found.add(answer.headers["x-airboss-release"])
        return found

    def close(self) -> None:
        for process in self.processes:
            process.send_signal(signal.SIGKILL)
            process.wait()
        self.listener.close()


@pytest.fixture
def gateway(paths: Paths) -> Iterator[Gateway]:
    """A gateway's surroundings; `worker()` starts it."""
    found = Gateway(paths)
    yield found
    found.close()
