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
import threading
from typing import Any, Self

from adapters.local.child import ChildSpec
from engine.bench.gateway.load import Order
from engine.bench.programs import Programs, free_port, pinned
from state.words import OperationFailed

TABLE = {"revision": 1, "issued_at": 0.0, "default_env": "dev"}


class Field(Programs):
    """An upstream, and what is started before it. Use as a context manager."""

    def __init__(self) -> None:
        super().__init__()
        cores = sorted(os.sched_getaffinity(0))
        self.proxy_core, self.other_core = cores[-1], cores[0]
        self.is_shared = len(cores) < 2

    def __enter__(self) -> Self:
        super().__enter__()
        self.upstream_port = free_port()
        self.start(
            "upstream", [sys.executable, "-P", "-m", "engine.bench.gateway.upstream", str(self.upstream_port)],
            cores={self.other_core}, port=self.upstream_port,
        )  # fmt: skip
        return self

    def load(self, order: Order, stop: threading.Event | None = None) -> dict[str, Any]:
        """What the load generator found, in its own process beside the upstream; `stop` ends a closed load early."""
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "engine.bench.gateway.load", order.as_json()],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=pinned({self.other_core}),
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
        listener = self.stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
        root = self.root / name
        root.mkdir()
        payload = {"listen_fd": listener.fileno(), "gateway_dir": str(root), "fd_socket": str(root / "fd.sock")}
        spec = ChildSpec(name, "gateway", root, str(root / "w.sock"), "", {**payload, **settings})
        spec.write(root / "spec.json")
        words = [sys.executable, "-P", "-m", "engine.gateway.worker", str(root / "spec.json")]
        child = self.start(name, words, cores={self.proxy_core}, pass_fds=[listener.fileno()])
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
