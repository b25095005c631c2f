"""What the kill tests share: a workspace with tiny real releases, its engine as a process, its users, its record.

Everything is real: the engine, the gateway and the model servers are processes, and they are killed with SIGKILL. What is
asserted is read from outside: from the store, from the gateway's own admin sockets and counts, from /proc.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from bundles import CHARS, gpt_bundle
from patience import PATIENCE_S, until
from sqlmodel import Session, create_engine

from console.client import EngineClient
from engine.api.schemas import VerbRequest, VerbResult
from engine.load import LoadGenerator, LoadPlan, LoadReport
from engine.serving.models.gpt import GPTConfig
from state import audit, ids
from state.chain import ChainState
from state.models import Release, Rollout, TrackState
from state.paths import Paths
from state.policy_config import Policy
from state.store import Store
from state.words import Lifecycle, RolloutState, Track

SERVICE, ENV = "chat", "production"
RELEASES = tuple(f"tiny-{n}" for n in range(1, 6))
STABLE, CANARY = RELEASES[:2]
RPS = 40.0
WHOLE_PATH = (
    ("planned", 0), ("preparing", 0), ("step_applying", 0), ("step_baking", 0), ("step_applying", 1), ("step_baking", 1),
    ("step_applying", 2), ("step_baking", 2), ("promoting", 2), ("verifying", 2), ("completed", 2),
)  # fmt: skip
"""The one legal way of a canary of three steps that nobody stops: each state and step once, in this order."""

CONFIG = """\
[workspace]
name = "chaos"

[service.{service}]
# 40 requests without a bad one are enough at a limit of 10 % and alpha 0.05 / 2 (engine/rollouts/README.md).
slo = {{ availability = 90.0, latency_p95_ms = 5000, latency_share = 90.0, window_d = 1 }}
replicas = {replicas}

[environment.{env}]
policy = "quick"

[policy.quick]
steps = [{{ weight = 25 }}, {{ weight = 50 }}, {{ weight = 100 }}]
judge = {{ alpha = 0.05, min_requests = 20, max_minutes = 10, no_data_after = "90s" }}
approvals = 0
warm_hold = "2s"
prepare_timeout = "300s"

[gateway]
listen = "127.0.0.1:{port}"
workers = 2

[engine]
model_threads = 1
restart_backoff = "200ms"
restart_backoff_max = "2s"
crash_loop_count = 3
crash_loop_window = "10m"
"""


def say(line: str) -> None:
    """A measured fact, for `pytest -s` and for the report of a failure."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def make_bundle(root: Path, release_id: str, seed: int) -> str:
    """A release of an untrained model of one layer, loaded in milliseconds. Returns its digest."""
    config = GPTConfig(n_layer=1, n_head=2, n_embd=16, block_size=64, vocab_size=len(CHARS))
    return gpt_bundle(root, config, seed=seed, release_id=release_id)


def make_template(root: Path) -> Path:
    """A state directory as an earlier, quiet life left it: five releases, the first of them live and verified."""
    bundles = root / "releases"
    digests = {name: make_bundle(bundles / name, name, seed) for seed, name in enumerate(RELEASES, start=1)}
    store = Store.open(root / "state.db")

    def fill(session: Session) -> None:
        at = time.time() - 3600.0
        for name, digest in digests.items():
            session.add(
                Release(id=name, service=SERVICE, lifecycle=Lifecycle.DEVELOPMENT, model_name="tiny", model_version="",
                        digest=digest, bundle_path=str(bundles / name), created_by="user:test", created_at=at)
            )  # fmt: skip
        first = ids.next_id(session, "ro")
        policy = Policy().model_dump(mode="json") | {"steps": [{"kind": "weight", "value": 100}], "replicas": 1}
        session.add(
            Rollout(id=first, service=SERVICE, env=ENV, target="local", strategy="canary", to_release=STABLE,
                    state=RolloutState.COMPLETED, policy=policy, created_by="user:test", created_at=at, state_since=at,
                    finished_at=at)
        )  # fmt: skip
        session.add(
            TrackState(service=SERVICE, env=ENV, target="local", track=Track.STABLE, release_id=STABLE, rollout_id=first,
                       weight=100, since=at)
        )  # fmt: skip

    store.write_now(fill)
    store.close()
    (root / "reserve").unlink(missing_ok=True)
    return root


@dataclass(frozen=True, slots=True)
class Running:
    """A process of the workspace, as /proc shows it: what it was started as, and by which spec."""

    pid: int
    module: str
    spawn_id: str


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def kill(pid: int) -> None:
    """SIGKILL, also where the process has just gone."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


class UnixConnection(HTTPConnection):
    """HTTP over a Unix socket, with nothing to set up: it is asked many times a second."""

    def __init__(self, path: Path) -> None:
        super().__init__("unix", timeout=30.0)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket's path."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def get(socket_path: Path, path: str) -> bytes:
    """What a Unix socket's server answers to GET `path`. Raises OSError, HTTPException."""
    with closing(UnixConnection(socket_path)) as connection:
        connection.request("GET", path)
        return connection.getresponse().read()


class Users:
    """The load of the built-in generator, in a thread of its own with its own event loop."""

    def __init__(self, url: str, rps: float = RPS, seed: int = 1) -> None:
        plan = LoadPlan(
            url,
            SERVICE,
            ("the ", "what is "),
            rps,
            env=ENV,
            max_tokens=2,
            duration_s=7200.0,
            seed=seed,
            timeout_s=300.0,
        )
        self.generator = LoadGenerator(plan)
        self.report: LoadReport | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="users", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            self.report = runner.run(self.generator.run())

    def seen(self) -> LoadReport:
        """The load so far."""
        return self.generator.snapshot()

    def answered_since(self, earlier: LoadReport) -> int:
        """Answers since `earlier`."""
        return self.seen().answered - earlier.answered

    def stop(self) -> LoadReport:
        """Send nothing more, wait for what is in flight; the final report."""
        if self._thread.is_alive():
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self.generator.stop)
            self._thread.join(PATIENCE_S)
        assert self.report is not None, "the load did not end"
        return self.report


@dataclass
class Workspace:
    """One workspace, its engine, its users. `close` ends every process that was started for it."""

    root: Path
    paths: Paths
    engines: list[subprocess.Popen[bytes]] = field(default_factory=list)
    loads: list[Users] = field(default_factory=list)
    _sql: Any = None

    @classmethod
    def make(cls, root: Path, template: Path, *, replicas: int = 1, port: int = 0, config: str = CONFIG) -> Workspace:
        """A workspace at `root` with the state of `template`."""
        root.mkdir(parents=True, exist_ok=True)
        (root / "airboss.toml").write_text(config.format(service=SERVICE, env=ENV, replicas=replicas, port=port))
        paths = Paths.of(root)
        paths.make()
        shutil.copy(template / "state.db", paths.store)
        return cls(root, paths)

    def start(self, *, is_up: bool = True, script: Path | None = None, **env: str) -> subprocess.Popen[bytes]:
        """Start the engine, or the `script` that becomes it. With `is_up`, wait until it answers."""
        program = [str(script)] if script else ["-m", "engine.daemon"]
        with (self.paths.logs / "engine.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", *program, "--workspace", str(self.root)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.root, start_new_session=True,
                env={**os.environ, **env},
            )  # fmt: skip
        self.engines.append(process)
        if is_up:
            until(lambda: self._answers(process), "the engine answers")
        return process

    def _answers(self, process: subprocess.Popen[bytes]) -> bool:
        assert process.poll() is None, f"the engine left with {process.returncode}:\n{self.log_tail()}"
        return self.health_pid() == process.pid

    def health_pid(self) -> int | None:
        """The pid of the engine that answers on the socket."""
        try:
            return int(json.loads(get(self.paths.engine_socket, "/v1/health"))["pid"])
        except (OSError, HTTPException, ValueError, KeyError):
            return None

    def log_tail(self, lines: int = 40) -> str:
        """The end of the engine's log."""
        path = self.paths.logs / "engine.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""

    def kill_engine(self) -> None:
        """SIGKILL the engine that was started last, and wait until it is gone."""
        self.engines[-1].kill()
        self.engines[-1].wait()

    def ask(self, verb: str, ref: str, *, reason: str = "", **args: Any) -> VerbResult:
        """Ask the engine for a verb, confirmed."""
        with EngineClient.for_workspace(self.root, timeout_s=PATIENCE_S) as client:
            wish = VerbRequest(verb=verb, ref=ref, args=args, reason=reason, yes=True, confirm_name=SERVICE)
            return client.verb(wish, timeout_s=PATIENCE_S)

    def deploy(self, release: str = CANARY, *, again: bool = False) -> str:
        """Begin the rollout of `release`; its id. `again`: although it was rejected."""
        force = {"force": True} if again else {}
        return self.ask("deploy", f"service/{SERVICE}", release=release, env=ENV, **force).ref.partition("/")[2]

    def url(self) -> str:
        """The gateway's public address."""
        return str(json.loads(get(self.paths.engine_socket, "/v1/status"))["gateway"])

    def is_serving(self) -> bool:
        """The public address answers a user."""
        connection = HTTPConnection(self.url().removeprefix("http://"), timeout=30.0)
        try:
            body = {"model": SERVICE, "prompt": "the ", "max_tokens": 1}
            connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()

    def serve(self) -> str:
        """Start the engine and wait until users are answered; the public address."""
        self.start()
        until(lambda: len(self.gateways()) == 2 and self.is_serving(), "users are answered")
        return self.url()

    def users(self, rps: float = RPS) -> Users:
        """Let users come; `close` sends them home."""
        load = Users(self.url(), rps, seed=len(self.loads) + 1)
        self.loads.append(load)
        until(lambda: load.seen().answered > 5, "the first users are answered")
        return load

    # What the record says.

    def rows(self, query: str, *values: object) -> list[sqlite3.Row]:
        """Rows of the store, read beside the engine."""
        with closing(sqlite3.connect(f"file:{self.paths.store}?mode=ro", uri=True, timeout=30.0)) as connection:
            connection.row_factory = sqlite3.Row
            return connection.execute(query, values).fetchall()

    def change(self, statement: str, *values: object) -> None:
        """Change a row while no engine is there."""
        with closing(sqlite3.connect(self.paths.store, timeout=30.0)) as connection, connection:
            connection.execute(statement, values)

    def standing(self, rollout_id: str) -> tuple[str, int]:
        """State and step of a rollout."""
        (row,) = self.rows("SELECT state, step FROM rollout WHERE id = ?", rollout_id)
        return row["state"], row["step"]

    def wait_for(self, rollout_id: str, state: str, step: int | None = None, timeout_s: float = PATIENCE_S) -> None:
        """Wait until the rollout has come to `state` (and `step`), by its audit rows: a passing state is not missed."""
        try:
            until(
                lambda: any(s == state and step in (None, i) for s, i in self.path(rollout_id)),
                f"{rollout_id} is {state}",
                timeout_s,
            )
        except AssertionError as error:
            raise AssertionError(
                f"{error}; it is {self.standing(rollout_id)}: {self.message(rollout_id)}\n{self.log_tail()}"
            ) from None

    def message(self, rollout_id: str) -> str:
        """What the rollout says of itself."""
        return str(self.rows("SELECT message FROM rollout WHERE id = ?", rollout_id)[0]["message"])

    def path(self, rollout_id: str) -> list[tuple[str, int]]:
        """(state, step) of every state change in the audit log, in order."""
        rows = self.rows(
            "SELECT action, detail FROM audit WHERE ref = ? AND action LIKE 'rollout.%' ORDER BY id",
            f"rollout:{rollout_id}",
        )
        names = {state.value for state in RolloutState}
        moves = [(row["action"].removeprefix("rollout."), json.loads(row["detail"])) for row in rows]
        return [(state, int(detail.get("step", 0))) for state, detail in moves if state in names]

    def chain(self) -> ChainState:
        """The audit chain, walked from outside."""
        engine = create_engine(f"sqlite:///file:{self.paths.store}?mode=ro&uri=true")
        try:
            with Session(engine) as session:
                return audit.verify(session, self.paths.store.with_name("audit.head"))
        finally:
            engine.dispose()

    # What runs.

    def processes(self) -> list[Running]:
        """Every living process that names this workspace in its command line, children before their lock included."""
        found = []
        for proc in Path("/proc").iterdir():
            if not proc.name.isdigit():
                continue
            try:
                words = (proc / "cmdline").read_bytes().decode(errors="replace").split("\0")
                state = (proc / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            spec = next((w for w in words if w.startswith(f"{self.root}/")), None)
            if "--workspace" in words and str(self.root) in words:
                spec = spec or ""
            if spec is not None and state != "Z":
                module = words[words.index("-m") + 1] if "-m" in words else words[-1]
                found.append(Running(int(proc.name), module, Path(spec).name.removesuffix(".spec.json")))
        return found

    def servers(self) -> list[Running]:
        """The model servers that live."""
        return [p for p in self.processes() if p.module == "engine.serving.server"]

    def gateways(self) -> list[Running]:
        """The gateway workers that live."""
        return [p for p in self.processes() if p.module == "engine.gateway.worker"]

    def owners(self, kind: str = "model") -> Counter[str]:
        """Which place each living process of a kind is for, by its row; a place with two processes counts two."""
        known = {
            row["spawn_id"]: row["owner"] for row in self.rows("SELECT spawn_id, owner FROM spawn WHERE kind = ?", kind)
        }
        return Counter(
            known.get(p.spawn_id, p.spawn_id) for p in (self.servers() if kind == "model" else self.gateways())
        )

    def ready(self, release: str) -> list[sqlite3.Row]:
        """Ready replicas of a release, by their rows."""
        return self.rows("SELECT * FROM spawn WHERE kind = 'model' AND state = 'ready' AND release_id = ?", release)

    def tables(self) -> list[dict[str, Any]]:
        """The table of every gateway worker that answers on its admin socket."""
        return [json.loads(answer) for answer in self._admin("/admin/table")]

    def gateway_health(self) -> list[dict[str, Any]]:
        """Every replica as every gateway worker sees it."""
        return [replica for answer in self._admin("/admin/health") for replica in json.loads(answer)["replicas"]]

    def _admin(self, path: str) -> Iterator[bytes]:
        for worker in self.gateways():
            with suppress(OSError, HTTPException):
                yield get(self.paths.sockets / f"{worker.spawn_id}.sock", path)

    def weights(self) -> list[dict[str, int]]:
        """release → weight, for each gateway worker."""
        found = []
        for table in self.tables():
            (route,) = table["routes"]
            found.append({b["release_id"]: b["weight"] for b in route["backends"] if b["weight"]})
        return found

    def ledger(self) -> list[dict[str, Any]]:
        """Every request that the gateway wrote down."""
        lines = [
            line
            for file in sorted((self.paths.gateway / "ledger").glob("*.jsonl"))
            for line in file.read_text().splitlines()
        ]
        return [json.loads(line) for line in lines if line.endswith("}")]

    # What must hold at the end.

    def assert_in_order(self) -> None:
        """Every intent is closed, every audit row follows from the one before, no place has two processes."""
        until(
            lambda: not self.rows("SELECT key FROM intent WHERE state = 'pending'"),
            f"every intent is closed\n{self.log_tail()}",
        )
        chain = self.chain()
        assert chain.is_whole, chain.why
        assert all(count == 1 for count in self.owners().values()), self.owners()
        assert all(count == 1 for count in self.owners("gateway").values()), self.owners("gateway")

    def assert_serves_only(self, release: str, replicas: int = 1) -> None:
        """In the end exactly the replicas of one release run: no orphan, no double, nothing forgotten."""
        wanted = Counter({f"model/{SERVICE}/{ENV}/{release}/{n}": 1 for n in range(replicas)})
        until(lambda: self.owners() == wanted, f"only {release} runs; there are {self.servers()}, {self.owners()}")
        until(lambda: self.weights() == [{release: 100}] * 2, f"all traffic is on {release}: {self.weights()}")

    def close(self) -> None:
        """End everything that was started here, by pid; fails if something cannot be ended."""
        for load in self.loads:
            with suppress(AssertionError):
                load.stop()
        for engine in self.engines:
            engine.kill()
            engine.wait()

        def none_left() -> bool:
            left = self.processes()
            for process in left:
                kill(process.pid)
            return not left

        until(none_left, "every process of the workspace is gone")
        shutil.rmtree(self.paths.sockets, ignore_errors=True)


@contextmanager
def opened(root: Path, template: Path, **settings: Any) -> Iterator[Workspace]:
    """A workspace for the length of a block."""
    workspace = Workspace.make(root, template, **settings)
    try:
        yield workspace
    finally:
        workspace.close()
