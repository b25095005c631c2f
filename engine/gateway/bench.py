"""`python -m engine.gateway.bench`: what one gateway worker costs, beside its own backend asked directly.

Interleaved rounds (direct, gateway, direct, …) of closed-loop clients on keep-alive connections, all on this host, so
only the ratio means much. The backend does nothing but answer, hence this is the gateway's cost and nothing else's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from adapters.local.child import ChildSpec
from engine.gateway.client import GatewayAdmin
from state.words import Unreachable

_ANSWER = json.dumps(
    {"choices": [{"text": "x" * 200}], "usage": {"prompt_tokens": 5, "completion_tokens": 20}}
).encode()
_ASK = json.dumps({"model": "chat", "prompt": "To be, or not to be", "max_tokens": 20}).encode()
_REQUEST = (
    b"POST /v1/completions HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
    % (len(_ASK), _ASK)
)


class _Backend(asyncio.Protocol):
    """The cheapest HTTP server there is: one fixed answer to whatever ends."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.buffer = transport, b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, separator, body = self.buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line)
        if len(body) >= int(fields.get(b"content-length", b"0")):
            self.buffer = b""
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(_ANSWER)
            self.transport.write(head + _ANSWER)


@dataclass(frozen=True, slots=True)
class Round:
    """One round's numbers: requests a second, and milliseconds."""

    rate: float
    p50_ms: float
    p99_ms: float


async def _load(
    connect: Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]], clients: int, seconds: float
) -> Round:
    took: list[float] = []
    end = time.perf_counter() + seconds

    async def client() -> None:
        reader, writer = await connect()
        while (began := time.perf_counter()) < end:
            writer.write(_REQUEST)
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 200 " not in head[:20]:
                raise RuntimeError(f"the bench got {head[:80]!r}")
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            took.append(time.perf_counter() - began)
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    took.sort()
    return Round(len(took) / seconds, took[len(took) // 2] * 1000, took[len(took) * 99 // 100] * 1000)


async def measure(rounds: int, seconds: float, clients: int) -> tuple[list[Round], list[Round]]:
    """(direct, through one worker), `rounds` of each, interleaved."""
    with tempfile.TemporaryDirectory(prefix="gwb-") as name, socket.create_server(("127.0.0.1", 0)) as listener:
        root = Path(name)
        address = str(root / "b.sock")
        fd = listener.fileno()
        payload = {"listen_fd": fd, "gateway_dir": str(root), "fd_socket": str(root / "fd.sock")}
        spec = ChildSpec("bench", "gateway", root, str(root / "w.sock"), "", payload)
        spec.write(root / "spec.json")
        backend = _start(fd, "engine.gateway.bench", "--backend", address)
        worker = _start(fd, "engine.gateway.worker", str(root / "spec.json"))
        try:
            await _put_table(spec.socket, address)
            port = listener.getsockname()[1]
            direct, through = [], []
            for _ in range(rounds):
                direct.append(await _load(lambda: asyncio.open_unix_connection(address), clients, seconds))
                through.append(await _load(lambda: asyncio.open_connection("127.0.0.1", port), clients, seconds))
            return direct, through
        finally:
            for child in (worker, backend):
                child.kill()
                child.wait()


def _start(fd: int, *argv: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", *argv], pass_fds=(fd,), stdout=subprocess.DEVNULL)


async def _put_table(admin_socket: str, address: str) -> None:
    backend = {"track": "stable", "release_id": "bench-1", "weight": 100, "replicas": [["b", f"unix:{address}"]]}
    route = {"service": "chat", "env": "dev", "target": "local", "rollout_id": "", "slow_ms": 100.0, "deadline_s": 10.0}
    table = {"revision": 1, "issued_at": 0.0, "default_env": "dev", "routes": [{**route, "backends": [backend]}]}
    end = time.monotonic() + 10
    async with GatewayAdmin(admin_socket) as admin:
        while time.monotonic() < end:
            with suppress(Unreachable):
                if not (await admin.handshake())["revision"]:
                    await admin.put_table(table)
                if any(replica["healthy"] for replica in await admin.health()):
                    return
            await asyncio.sleep(0.05)
    raise Unreachable("the bench's worker or backend did not come up within 10 s")


async def _serve_backend(path: str) -> None:
    server = await asyncio.get_running_loop().create_unix_server(_Backend, path)
    await server.serve_forever()


def main(argv: list[str]) -> int:
    """Run the rounds and print a row per measure."""
    parser = argparse.ArgumentParser(prog="engine.gateway.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--backend", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.backend:
        asyncio.run(_serve_backend(options.backend))
    direct, through = asyncio.run(measure(options.rounds, options.seconds, options.clients))
    rows = [f"{options.rounds} rounds of {options.seconds:g} s, c={options.clients}, {os.cpu_count()} CPUs, medians"]
    rows.append(f"{'measure':<12}{'gateway':>10}{'direct':>10}{'ratio':>8}{'added':>9}")
    for name in ("rate", "p50_ms", "p99_ms"):
        ours, other = (statistics.median(getattr(r, name) for r in rounds) for rounds in (through, direct))
        ratio = statistics.median(getattr(a, name) / getattr(b, name) for a, b in zip(through, direct, strict=True))
        rows.append(f"{name:<12}{ours:>10.2f}{other:>10.2f}{ratio:>8.2f}{ours - other:>9.2f}")
    sys.stdout.write("\n".join(rows) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
