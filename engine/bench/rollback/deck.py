"""A whole Airboss to bench: a workspace of its own with two toy releases, its engine, its gateway of two workers.

The engine, the store and the gateway are those that users have. The releases are served by a foreign command, the toy.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx
from sqlmodel import Session

from engine.bench.programs import Programs, last_lines
from state import ids
from state.digests import MANIFEST_NAME, bundle_digest, hash_tree
from state.models import Release, Rollout, TrackState
from state.paths import Paths
from state.policy_config import Policy
from state.store import Store
from state.words import Lifecycle, OperationFailed, RolloutState, TimedOut, Track

T = TypeVar("T")
SERVICE, ENV = "chat", "production"
GOOD, BAD = "good", "bad"
START_S, VERB_S, STOP_S = 60.0, 60.0, 40.0
POLL_S = 0.02

_CONFIG = """\
[workspace]
name = "bench"

[service.{service}]
slo = {{ availability = 90.0, latency_p95_ms = 5000, latency_share = 90.0, window_d = 1 }}

[service.{service}.serving]
backend = "command"
command = {command}

[environment.{env}]
policy = "bench"

{policy}

[gateway]
listen = "127.0.0.1:0"
workers = 2
"""
HALF = """\
[policy.bench]
steps = [{ weight = 50 }, { weight = 100 }]
# Nothing here judges: the bench stands where a person would, at half.
judge = { min_requests = 1000000, max_minutes = 100000, no_data_after = "24h", guardrails = [] }
approvals = 0
"""


class Deck:
    """A running workspace. `policy` is its environment's; close it with `Programs`, whose directory it lives in."""

    def __init__(self, programs: Programs, policy: str = HALF) -> None:
        self.root = programs.root / "deck"
        self.root.mkdir()
        self.paths = Paths.of(self.root)
        self.paths.make()
        command = json.dumps([sys.executable, "-P", "-m", "engine.bench.rollback.toy", "{port}", "{model}"])
        config = _CONFIG.format(service=SERVICE, env=ENV, command=command, policy=policy)
        (self.root / "airboss.toml").write_text(config, encoding="utf-8")
        _fill(self.paths.store, self.root / "releases")
        words = [sys.executable, "-P", "-m", "engine.daemon", "--workspace", str(self.root)]
        programs.stack.callback(self._kill_children)
        self._start = partial(programs.start, "engine", words)
        self._engine = self._start()
        self._log = programs.log("engine")
        programs.stack.callback(self._drain)
        self._http = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(self.paths.engine_socket), verify=False),
            base_url="http://engine", timeout=VERB_S, trust_env=False,
        )  # fmt: skip
        self.port = self.until(self._public_port, "the engine answers, and its gateway", START_S)

    def restart(self) -> None:
        """Kill the engine and start another: what it serves goes on, and what it knew is gone."""
        self._engine.kill()
        self._engine.wait()
        self._engine = self._start()
        self.until(self._public_port, "the engine answers again", START_S)

    def until(self, claim: Callable[[], T | None], what: str, timeout_s: float = VERB_S) -> T:
        """Poll `claim` until it has something to say. Raises TimedOut, OperationFailed when the engine has left."""
        end = time.monotonic() + timeout_s
        while True:
            if found := claim():
                return found
            if self._engine.poll() is not None:
                raise OperationFailed(
                    f"the bench's engine left with {self._engine.returncode}: {last_lines(self._log)}"
                )
            if time.monotonic() > end:
                raise TimedOut(f"not within {timeout_s:g} s: {what}; the engine says: {last_lines(self._log)}")
            time.sleep(POLL_S)

    def ask(self, verb: str, ref: str, **args: Any) -> dict[str, Any]:
        """Ask the engine for a verb, as the console does. Raises OperationFailed with what it answers else."""
        wish = {"verb": verb, "ref": ref, "args": args, "yes": True, "confirm_name": SERVICE, "reason": "bench"}
        answer = self._http.post("/v1/verbs", json=wish)
        body: dict[str, Any] = answer.json()
        if not answer.is_success:
            error = body["error"]
            raise OperationFailed(error["message"], hint=error.get("hint", ""), code=error.get("code", ""))
        return body

    def deploy(self, release: str = BAD, **args: Any) -> str:
        """Begin to roll a release out; the rollout's id."""
        wish = {"release": release, "env": ENV, "force": True, **args}
        return str(self.ask("deploy", f"service/{SERVICE}", **wish)["ref"]).partition("/")[2]

    def await_state(self, rollout_id: str, *states: RolloutState, timeout_s: float = VERB_S) -> RolloutState:
        """Wait until the rollout stands in one of `states`."""

        def stands() -> RolloutState | None:
            (row,) = self.rows("SELECT state FROM rollout WHERE id = ?", rollout_id)
            return RolloutState(row["state"]) if row["state"] in states else None

        return self.until(stands, f"{rollout_id} is {' or '.join(states)}", timeout_s)

    @property
    def live(self) -> str:
        """The release on the stable track."""
        (row,) = self.rows("SELECT release_id FROM track WHERE track = 'stable'")
        return str(row["release_id"])

    def rows(self, query: str, *values: object) -> list[sqlite3.Row]:
        """Rows of the store, read beside the engine."""
        with closing(sqlite3.connect(f"file:{self.paths.store}?mode=ro", uri=True, timeout=30.0)) as connection:
            connection.row_factory = sqlite3.Row
            return connection.execute(query, values).fetchall()

    def _public_port(self) -> int | None:
        with suppress(httpx.TransportError):
            status = self._http.get("/v1/status").json()
            served = self._http.get("/v1/serving").json()
            if sum(place["state"] == "ready" for place in served) >= 3:  # two workers, and the good release
                return int(str(status["gateway"]).rpartition(":")[2])
        return None

    def _drain(self) -> None:
        """Stop the engine and all it serves; what does not go is killed after this."""
        with suppress(httpx.HTTPError, OperationFailed, subprocess.TimeoutExpired):
            self.ask("engine.drain", "engine/engine")
            self._engine.wait(STOP_S)
        self._http.close()

    def _kill_children(self) -> None:
        for path in self.paths.run.glob("*.json"):
            with suppress(OSError, ValueError, KeyError, ProcessLookupError):
                facts: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
                if str(self.root) in Path(f"/proc/{facts['pid']}/cmdline").read_text(encoding="utf-8"):
                    os.kill(int(facts["pid"]), signal.SIGKILL)


def _fill(path: Path, bundles: Path) -> None:
    """A store as a quiet life would have left it: two releases, the good one live and verified."""
    store = Store.open(path)
    digests = {name: _bundle(bundles / name, name) for name in (GOOD, BAD)}

    def fill(session: Session) -> None:
        at = time.time() - 3600.0
        for name, digest in digests.items():
            session.add(
                Release(id=name, service=SERVICE, lifecycle=Lifecycle.DEVELOPMENT, model_name="toy", model_version="",
                        digest=digest, bundle_path=str(bundles / name), created_by="user:bench", created_at=at)
            )  # fmt: skip
        first = ids.next_id(session, "ro")
        policy = Policy().model_dump(mode="json") | {"steps": [{"kind": "weight", "value": 100}], "replicas": 1}
        session.add(
            Rollout(id=first, service=SERVICE, env=ENV, target="local", strategy="canary", to_release=GOOD,
                    state=RolloutState.COMPLETED, policy=policy, created_by="user:bench", created_at=at, state_since=at,
                    finished_at=at)
        )  # fmt: skip
        session.add(
            TrackState(service=SERVICE, env=ENV, target="local", track=Track.STABLE, release_id=GOOD, rollout_id=first,
                       weight=100, since=at)
        )  # fmt: skip

    try:
        store.write_now(fill)
    finally:
        store.close()


def _bundle(root: Path, release_id: str) -> str:
    """A release that holds nothing but its name; returns its digest."""
    root.mkdir(parents=True)
    (root / "name.txt").write_text(release_id, encoding="utf-8")
    files = hash_tree(root, exclude=(MANIFEST_NAME,))
    digest = bundle_digest(files)
    listed = [{"path": file.path, "sha256": file.sha256, "size": file.size} for file in files]
    (root / MANIFEST_NAME).write_text(json.dumps({"release_id": release_id, "digest": digest, "files": listed}))
    return digest
