"""For the command line's tests: a workspace, and a fake engine at the port: a real HTTP server on its Unix socket."""

from __future__ import annotations

import json
import os
import shutil
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from console.init import template
from state.paths import Paths
from state.words import AirbossError

AIRBOSS = Path(sys.executable).with_name("airboss")
NOW = 1_790_000_000.0


def rollout(**changes: Any) -> dict[str, Any]:
    """A rollout as the engine sends one."""
    return {
        "id": "ro-3", "service": "chat", "env": "production", "protected": True, "strategy": "canary",
        "from_release": "charlm-2", "to_release": "charlm-3", "state": "step_baking", "step": 1, "revision": 7,
        "pause_reason": "", "message": "", "reason": "", "weight": 25, "measured_pct": 24.8, "created_by": "user:ana",
        "created_at": NOW, "state_since": NOW + 60, "finished_at": None, "warm_until": None, "registry_sync": "",
        "steps": [
            {"idx": i, "kind": "weight", "weight": w, "state": s, "started_at": None, "elapsed_s": 0.0, "verdict": None}
            for i, (w, s) in enumerate([(5, "passed"), (25, "baking"), (100, "pending")])
        ],
        "stable": None, "canary": None, "verdict": None, "refusals": {}, "events": [], **changes,
    }  # fmt: skip


def run_view(**changes: Any) -> dict[str, Any]:
    """A pipeline run as the engine sends one."""
    return {
        "id": "run-4", "pipeline": "charlm", "state": "running", "params": {}, "release_id": None, "error": "",
        "created_by": "user:ana", "created_at": NOW, "finished_at": None, "refusals": {},
        "stages": [{"name": "train", "state": "running", "started_at": NOW, "finished_at": None, "attempt": 1,
                    "metrics": {}, "progress": {"step": 3}, "gates": [], "error": ""}], **changes,
    }  # fmt: skip


def fleet_row(**changes: Any) -> dict[str, Any]:
    """A service in an environment as the engine sends it."""
    return {
        "service": "chat", "env": "production", "protected": True, "release_id": "charlm-2", "rps": 12.5, "p95_ms": 85.2,
        "error_ratio": 0.0012, "budget_left": 0.91, "coverage": 1.0, "rollout_id": "ro-3", "phase": "step_baking",
        "alerts": 1, "paging": 0, "held_by": "", "frozen": "", "rate_series": [],
        "tracks": [{"track": "stable", "release_id": "charlm-2", "weight": 75, "measured_pct": 75.2, "replicas": 1,
                    "ready": 1, "requests": 700, "errors": 1, "p95_ms": 84.0}], **changes,
    }  # fmt: skip


STATUS = {
    "version": "0.1.0", "pid": 4242, "workspace": "/srv/shop", "name": "shop", "is_demo": False, "state": "running",
    "started_at": NOW, "gateway": "http://127.0.0.1:1", "gateway_workers": 2, "gateway_ready": 2, "replicas": 1,
    "replicas_ready": 1, "adapters": {"registry": "up"}, "audit_rows": 12, "audit_head": "ab" * 32, "audit_ok": True,
    "no_one_is_paged": False, "demo": {},
}  # fmt: skip


@dataclass
class FakeEngine:
    """What the engine answers: `answers` by path, verbs by `on_verb`. Tests change both while it runs."""

    socket: Path
    answers: dict[str, Any]
    verbs: list[dict[str, Any]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    on_verb: Callable[[dict[str, Any]], dict[str, Any]] | None = None

    def answer(self, path: str, query: dict[str, str]) -> Any:
        """The JSON at a path; a callable is called with the query; an AirbossError is sent as one."""
        found = self.answers.get(path)
        found = found(query) if callable(found) else found
        if found is None:
            raise AirbossError(f"nothing at {path}")
        return found

    def do(self, request: dict[str, Any]) -> dict[str, Any]:
        """The result of a verb."""
        self.verbs.append(request)
        result = {"verb": request["verb"], "ref": request["ref"], "changed": not request["dry_run"], "message": "done",
                  "revision": None, "plan": None}  # fmt: skip
        return {**result, **(self.on_verb(request) if self.on_verb else {})}


def _handler(engine: FakeEngine) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            engine.asked.append(self.path)
            self._send(lambda: engine.answer(parts.path, dict(parse_qsl(parts.query))))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._send(lambda: engine.do(body))

        def _send(self, make: Callable[[], Any]) -> None:
            try:
                status, value = 200, make()
            except AirbossError as error:
                status, value = 409, {"error": error.as_dict()}
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def address_string(self) -> str:
            return "unix"

        def log_message(self, *args: Any) -> None:
            return

    return Handler


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Paths]:
    """A workspace as `init` writes it; the current directory, with sockets of its own."""
    runtime = tempfile.mkdtemp(prefix="ab-", dir="/tmp")
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    for name in ("AIRBOSS_WORKSPACE", "AIRBOSS_ENGINE", "AIRBOSS_READ_ONLY", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    root = tmp_path / "shop"
    root.mkdir()
    (root / "airboss.toml").write_text(template("shop", "chat", "127.0.0.1:0"))
    monkeypatch.chdir(root)
    yield Paths.of(root)
    shutil.rmtree(runtime)


@pytest.fixture
def engine(workspace: Paths) -> Iterator[FakeEngine]:
    """A fake engine at the workspace's socket."""
    workspace.sockets.mkdir(parents=True)
    fake = FakeEngine(workspace.engine_socket, {
        "/v1/health": {"ok": True, "version": "0.1.0", "pid": os.getpid()}, "/v1/status": STATUS,
        "/v1/fleet": [fleet_row()], "/v1/rollouts": [rollout()], "/v1/rollouts/ro-3": rollout(), "/v1/runs": [run_view()],
        "/v1/runs/run-4": run_view(), "/v1/alerts": [], "/v1/releases": [], "/v1/serving": [], "/v1/slos": [],
        "/v1/pipelines": [],
    })  # fmt: skip
    server = _Server(str(fake.socket), _handler(fake))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield fake
    server.shutdown()
    server.server_close()
    thread.join()


@dataclass(frozen=True)
class Ran:
    """A finished command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its stdout as one JSON value."""
        return json.loads(self.out)


@pytest.fixture
def airboss() -> Callable[..., Ran]:
    """Run the installed `airboss` off a terminal."""

    def run(*words: str, stdin: str | None = None, timeout_s: float = 30, **env: str) -> Ran:
        done = subprocess.run(
            [str(AIRBOSS), *words], input=stdin, stdin=subprocess.DEVNULL if stdin is None else None, capture_output=True,
            text=True, timeout=timeout_s, env={**os.environ, **env}, errors="replace",
        )  # fmt: skip
        return Ran(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def views() -> dict[str, Callable[..., dict[str, Any]]]:
    """Makers of objects as the engine sends them."""
    return {"rollout": rollout, "run": run_view, "fleet": fleet_row, "status": lambda **c: {**STATUS, **c}}


def eventually(check: Callable[[], Any], timeout_s: float = 10.0) -> Any:
    """The first true value of `check` within the time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := check():
            return value
        time.sleep(0.02)
    raise AssertionError(f"did not come true within {timeout_s} s")


@pytest.fixture(name="eventually")
def _eventually() -> Callable[..., Any]:
    return eventually
