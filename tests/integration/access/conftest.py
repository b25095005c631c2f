"""A gateway's front with a desk, on a real port, before a real backend on a Unix socket; all in the test's own loop."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import json
import socket
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from adapters.local.child import ChildSpec
from engine.gateway.front import Front
from engine.gateway.ledger import Spool
from engine.gateway.listening import Acceptor
from engine.gateway.metrics import GatewayCollector, render
from engine.gateway.switch import Switchboard
from engine.gateway.table import parse_table
from engine.gateway.worker import Worker
from state.access_config import AccessConfig


@dataclass
class Backend:
    """A model server that answers as the test says, and remembers what it was asked."""

    text: str = "the answer"
    pieces: tuple[str, ...] = ()
    """The texts of a stream's events."""
    status: int = 200
    usage: dict[str, int] = field(default_factory=lambda: {"prompt_tokens": 3, "completion_tokens": 5})
    seen: list[tuple[dict[str, str], dict[str, Any]]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """One completion, whole or as a stream."""
        body = await request.json()
        self.seen.append((dict(request.headers), body))
        number = len(self.seen)
        if not body.get("stream"):
            choice = {"index": 0, "text": self.text, "message": {"role": "assistant", "content": self.text}}
            return web.json_response({"n": number, "choices": [choice], "usage": self.usage}, status=self.status)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for piece in self.pieces or (self.text,):
            event = {"n": number, "choices": [{"index": 0, "text": piece, "delta": {"content": piece}}]}
            await response.write(f"data: {json.dumps(event)}\n\n".encode())
            await asyncio.sleep(0)
        await response.write(b"data: [DONE]\n\n")
        return response


class House:
    """One gateway. `start` opens it with a configuration; `route` changes what the table says of the service."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.backend = Backend()
        self.url = ""
        self.port = 0
        self.front: Front
        self.switchboard: Switchboard
        self.spool: Spool
        self.session: aiohttp.ClientSession
        self.revision = 0
        self._closers: list[Any] = []

    async def start(self, config: dict[str, Any] | None = None, **route: Any) -> House:
        """Serve. `config` is an AccessConfig's fields."""
        access = AccessConfig.model_validate({"root": str(self.root), **(config or {})})
        app = web.Application(client_max_size=64 << 20)
        app.router.add_get("/ready", self._ready)
        app.router.add_post("/{path:.*}", self.backend.answer)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        await web.UnixSite(runner, str(self.root / "b.sock")).start()
        self._closers.append(runner.cleanup)
        payload = {"listen_fd": -1, "gateway_dir": str(self.root), "fd_socket": "", "max_inflight": 64,
                   "access": access.model_dump(mode="json")}  # fmt: skip
        worker = Worker(ChildSpec("g-1", "gateway", self.root, "", "", payload))
        self.front, self.switchboard, pool = worker.front, worker.switchboard, worker.pool
        self.spool = worker.proxy.recorder.ledger
        await self.put(**route)
        server = worker.door()
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        listening = Acceptor(listener, server, worker.tls)
        listening.open()
        self.certificates = worker._certificates
        self.url = f"{'https' if worker.tls else 'http'}://127.0.0.1:{self.port}"
        self.session = aiohttp.ClientSession(self.url, timeout=aiohttp.ClientTimeout(total=30))

        async def close() -> None:
            await self.session.close()
            listening.close()
            await server.shutdown(0.1)
            await pool.close()
            await self.front.proxy.sampler.close()
            await self.front.desk.close()

        self._closers.append(close)
        return self

    async def put(self, release: str = "chat-1", services: tuple[str, ...] = ("chat",), **route: Any) -> None:
        """Serve another table."""
        self.revision += 1
        backend = {"track": "stable", "release_id": release, "weight": 100,
                   "replicas": [["s1", f"unix:{self.root / 'b.sock'}"]]}  # fmt: skip
        routes = [
            {"service": name, "env": "production", "target": "local", "rollout_id": "", "slow_ms": 300.0,
             "deadline_s": 10.0, "backends": [backend], **route}
            for name in services
        ]  # fmt: skip
        table = {"revision": self.revision, "issued_at": time.time(), "default_env": "production", "routes": routes}
        await self.switchboard.put(parse_table(json.dumps(table)))

    async def ask(
        self, prompt: Any = "hello", key: str = "", path: str = "/v1/completions", headers: Any = None, **body: Any
    ) -> tuple[int, dict[str, Any], Any]:
        """(status, JSON, headers) of one completion."""
        sent = {**({"Authorization": f"Bearer {key}"} if key else {}), **(headers or {})}
        async with self.session.post(path, json={"model": "chat", "prompt": prompt, **body}, headers=sent) as answer:
            return answer.status, await answer.json(), answer.headers

    async def stream(self, prompt: Any = "hello", **body: Any) -> tuple[int, list[str], Any]:
        """(status, data of each event, headers) of one streamed completion, read to its proper end."""
        async with self.session.post(
            "/v1/completions", json={"model": "chat", "prompt": prompt, "stream": True, **body}
        ) as answer:
            text = (await answer.read()).decode()
            return answer.status, [e.removeprefix("data: ") for e in text.split("\n\n") if e], answer.headers

    async def wire(self, sent: bytes) -> bytes:
        """What comes back for raw bytes, until the gateway closes the connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(sent)
        try:
            async with asyncio.timeout(10):
                return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        wanted = [f'{k}="{v}"' for k, v in labels.items()]
        lines = render(GatewayCollector(self.front, lambda: 0)).decode().splitlines()
        return sum(
            float(line.split()[-1])
            for line in lines
            if line.startswith((name + "{", name + " ")) and all(label in line for label in wanted)
        )

    def ledger(self) -> list[dict[str, Any]]:
        """The lines that were written down so far."""
        while (writing := self.spool.flush()) is not None:
            writing.result(timeout=5)
        path = self.root / "ledger" / "g-1-1.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    async def _ready(self, request: web.Request) -> web.Response:
        return web.Response()

    async def close(self) -> None:
        """Close everything, last opened first."""
        for closer in reversed(self._closers):
            await closer()


@pytest.fixture
async def house() -> AsyncIterator[House]:
    """A gateway to be started."""
    with tempfile.TemporaryDirectory(prefix="ac-", dir="/tmp") as root:
        house = House(Path(root))
        try:
            yield house
        finally:
            await house.close()


def said(events: list[str]) -> str:
    """The text of a stream's events."""
    return "".join(json.loads(e)["choices"][0]["text"] for e in events if e.startswith("{") and "choices" in e)


@pytest.fixture(name="said")
def _said() -> Any:
    return said


def issue(root: Path, name: str = "localhost", stem: str = "", issuer: Any = None) -> tuple[Any, Any]:
    """Write `{stem}cert.pem` and `{stem}key.pem`; self-signed unless an issuer is given."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    ca_cert, ca_key = issuer or (None, key)
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(ca_cert.subject if ca_cert else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), True)
        .sign(ca_key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (root / f"{stem}key.pem").write_bytes(private)
    (root / f"{stem}cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return certificate, key


@pytest.fixture(name="issue")
def _issue() -> Any:
    return issue
