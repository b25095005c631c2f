"""The field a gateway is measured on: an upstream, proxies before it, a load generator; each pinned to its core.

The proxy that is measured has one core for itself; upstream and load share another. On a machine with one core they
all share it, and the report says so.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from adapters.local.child import ChildSpec
from engine.bench.gateway.load import Order
from state.words import OperationFailed, Unreachable

START_S = 15.0
STOP_S = 5.0
TABLE = {"revision": 1, "issued_at": 0.0, "default_env": "dev"}


class Field:
    """Starts programs and sees that all of them end. Use as a context manager."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        cores = sorted(os.sched_getaffinity(0))
        self.proxy_core, self.other_core = cores[-1], cores[0]
        self.is_shared = len(cores) < 2

    def __enter__(self) -> Field:
        self.root = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="airboss-bench-")))
        self.upstream_port = free_port()
        self.start(
            "upstream", [sys.executable, "-P", "-m", "engine.bench.gateway.upstream", str(self.upstream_port)],
            core=self.other_core, port=self.upstream_port,
        )  # fmt: skip
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def start(
        self,
        name: str,
        argv: Sequence[str],
        *,
        core: int | None = None,
        port: int = 0,
        pass_fds: Sequence[int] = (),
        wait_s: float = START_S,
        env: dict[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a program on the proxy's core, or on `core`, and wait until `port` takes connections."""
        log = self.root / f"{name}.log"
        with log.open("wb") as file:
            child = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=file, stderr=file, pass_fds=tuple(pass_fds), env=env,
                start_new_session=True, preexec_fn=_pin(self.proxy_core if core is None else core),
            )  # fmt: skip
        self._stack.callback(_stop, child)
        if port:
            _await_port(name, child, port, log, wait_s)
        return child

    def load(self, order: Order, stop: threading.Event | None = None) -> dict[str, Any]:
        """What the load generator found, in its own process beside the upstream; `stop` ends a closed load early."""
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "engine.bench.gateway.load", order.as_json()],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=_pin(self.other_core),
        )  # fmt: skip
        try:
            if stop is not None:
                stop.wait()
                child.send_signal(signal.SIGINT)
            out, err = child.communicate(timeout=order.seconds + 150)
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
        if child.returncode:
            raise OperationFailed(f"the load generator failed: {' / '.join(err.strip().splitlines()[-2:])}")
        found: dict[str, Any] = json.loads(out)
        return found

    def gateway(self, name: str = "ours", **settings: Any) -> Gateway:
        """One gateway worker on the proxy's core, with no table yet."""
        listener = self._stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
        root = self.root / name
        root.mkdir()
        payload = {"listen_fd": listener.fileno(), "gateway_dir": str(root), "fd_socket": str(root / "fd.sock")}
        spec = ChildSpec(name, "gateway", root, str(root / "w.sock"), "", {**payload, **settings})
        spec.write(root / "spec.json")
        words = [sys.executable, "-P", "-m", "engine.gateway.worker", str(root / "spec.json")]
        child = self.start(name, words, pass_fds=[listener.fileno()])
        return Gateway(listener.getsockname()[1], spec.socket, child, self.upstream_port)


class Gateway:
    """One gateway worker under measurement."""

    def __init__(self, port: int, admin_socket: str, child: subprocess.Popen[bytes], upstream_port: int) -> None:
        self.port = port
        self.admin_socket = admin_socket
        self.child = child
        self.upstream_port = upstream_port
        """Where its tables lead."""

    def table(self, revision: int, canary_weight: int, **route: Any) -> dict[str, Any]:
        """A table of one service with a stable and a canary, both on the one upstream."""
        address = f"http://127.0.0.1:{self.upstream_port}"
        backends = [
            {"track": track, "release_id": f"bench-{track}", "weight": weight, "replicas": [[track, address]]}
            for track, weight in (("stable", 100 - canary_weight), ("canary", canary_weight))
        ]
        named = {"service": "chat", "env": "dev", "target": "local", "rollout_id": "ro-1", "slow_ms": 100.0}
        return {**TABLE, "revision": revision, "routes": [{**named, "deadline_s": 30.0, "backends": backends, **route}]}


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _pin(core: int) -> Callable[[], None]:
    return lambda: os.sched_setaffinity(0, {core})


def _await_port(name: str, child: subprocess.Popen[bytes], port: int, log: Path, wait_s: float) -> None:
    end = time.monotonic() + wait_s
    while time.monotonic() < end:
        if child.poll() is not None:
            said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
            raise OperationFailed(f"{name} ended with {child.returncode} as it started: {' / '.join(said)}")
        try:
            with socket.create_connection(("127.0.0.1", port), 1):
                return
        except OSError:
            time.sleep(0.05)
    raise Unreachable(f"{name} did not listen on port {port} within {wait_s:g} s")


def _stop(child: subprocess.Popen[bytes]) -> None:
    child.terminate()
    try:
        child.wait(STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
