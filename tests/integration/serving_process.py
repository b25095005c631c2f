"""A real model server process for tests: `served(...)` starts one of a small random model and waits until it is ready."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from bundles import CHARS, gpt_bundle

from adapters.local.child import ChildSpec
from engine.serving.models.gpt import GPTConfig


def model_bundle(root: Path, serving: dict[str, Any], context: int = 256, layers: int = 2) -> str:
    """A release of a random model; returns its digest."""
    config = GPTConfig(n_layer=layers, n_head=2, n_embd=32, block_size=context, vocab_size=len(CHARS))
    return gpt_bundle(root, config, serving=serving, spread=10)


@dataclass
class Served:
    """A model server process, and a client of it."""

    socket: str
    process: subprocess.Popen[bytes]
    log: Path
    client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.client = httpx.Client(transport=httpx.HTTPTransport(uds=self.socket), base_url="http://m", timeout=60)

    def is_ready(self) -> bool:
        try:
            return self.client.get("/ready").status_code == 200
        except httpx.TransportError:
            return False

    def events(self, name: str) -> list[dict[str, Any]]:
        """Log lines of one kind."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def metric(self, start: str) -> float:
        """The value of the first series whose line begins so."""
        rows = [row for row in self.client.get("/metrics").text.splitlines() if row.startswith(start)]
        return float(rows[0].rpartition(" ")[2])


@contextlib.contextmanager
def served(
    root: Path,
    *,
    context: int = 256,
    layers: int = 2,
    serving: dict[str, Any] | None = None,
    stdout: str = "",
    env: dict[str, str] | None = None,
    is_awaited: bool = True,
    **payload: Any,
) -> Iterator[Served]:
    """A server in the directory `root`, which may have served before; ended with SIGTERM at the block's end."""
    (root / "run").mkdir(parents=True, exist_ok=True)
    bundle = root / "bundle"
    if bundle.exists():
        digest = json.loads((bundle / "release.json").read_text())["digest"]
    else:
        digest = model_bundle(bundle, {"drain_accept_s": 0, **(serving or {})}, context, layers)
    facts = {"bundle": str(bundle), "service": "chat", "env": "dev", "release_id": "charlm-1", "threads": 1}
    spec = ChildSpec("s", "model", root / "run", str(root / "m.sock"), digest, {**facts, **payload})
    spec.write(root / "run" / "s.spec.json")
    log = root / "log"
    with open(stdout or log, "ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "engine.serving.server", str(root / "run" / "s.spec.json")],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, **(env or {})},
        )
    server = Served(spec.socket, process, log)
    try:
        deadline = time.monotonic() + 60
        while is_awaited and not server.is_ready():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text() if log.exists() else ""
            time.sleep(0.02)
        yield server
    finally:
        server.client.close()
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
