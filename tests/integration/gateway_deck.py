"""A gateway made of real processes, for its tests: workers on one shared socket, replicas, clients.

`Raw` is a replica whose every byte the test decides; it lives in the test's own process, on a real socket.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

from adapters.local.child import ChildSpec
from engine.gateway.client import GatewayAdmin
from state.words import Unreachable

ROOT = Path(__file__).resolve().parents[2]
BACKEND = Path(__file__).with_name("gateway_backend.py")
Sample = tuple[int, str, dict[str, str]]


async def until(claim: Callable[[], Awaitable[bool]], timeout_s: float = 20.0) -> None:
    """Poll `claim` until it holds; fail at the deadline."""
    end = time.monotonic() + timeout_s
    while True:
        with suppress(Unreachable):
            if await claim():
                return
        assert time.monotonic() < end, "did not become true in time"
        await asyncio.sleep(0.02)


class Deck:
    """A gateway directory, a listening socket, and the processes started around them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.run = root / "run"
        self.run.mkdir()
        self.dir = root / "gateway"
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = self.listener.getsockname()[1]
        self.processes: list[subprocess.Popen[bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def sock(self, name: str) -> str:
        return str(self.root / f"{name}.sock")

    def start(self, *argv: str, log: str, pass_fds: tuple[int, ...] = ()) -> subprocess.Popen[bytes]:
        with (self.root / f"{log}.log").open("ab") as out:
            process = subprocess.Popen(
                [sys.executable, "-P", *argv],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                pass_fds=pass_fds,
                cwd=self.root,
                env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            )
        self.processes.append(process)
        return process

    def backend(self, name: str) -> subprocess.Popen[bytes]:
        return self.start(str(BACKEND), self.sock(name), name, str(self.root / f"{name}.seen"), log=name)

    def seen(self, name: str) -> list[str]:
        path = self.root / f"{name}.seen"
        return path.read_text().splitlines() if path.exists() else []

    def worker(self, name: str, module: str = "engine.gateway.worker", **settings: Any) -> subprocess.Popen[bytes]:
        payload = {
            "listen_fd": self.listener.fileno(),
            "worker": 0,
            "gateway_dir": str(self.dir),
            "max_inflight": 256,
            "retries": 1,
            "fd_socket": self.sock(f"{name}.fd"),
            **settings,
        }
        spec = ChildSpec(name, "gateway", self.run, self.sock(name), "", payload)
        spec.write(self.run / f"{name}.spec.json")
        words = ("-m", module, str(self.run / f"{name}.spec.json"))
        return self.start(*words, log=name, pass_fds=(self.listener.fileno(),))

    def admin(self, name: str) -> GatewayAdmin:
        return GatewayAdmin(self.sock(name))

    def table(self, revision: int, canary_weight: int | None, **over: Any) -> dict[str, Any]:
        """s1 and s2 are stable, c1 is the canary (None: no canary at all)."""
        stable = over.pop("stable", ("s1", "s2"))
        weight = canary_weight or 0
        backends = [_backend("stable", "chat-1", 100 - weight, [(s, f"unix:{self.sock(s)}") for s in stable])]
        if canary_weight is not None:
            backends.append(_backend("canary", "chat-2", weight, [("c1", f"unix:{self.sock('c1')}")]))
        route = {
            "service": "chat", "env": "production", "target": "local", "rollout_id": "ro-1", "slow_ms": 300.0,
            "deadline_s": 10.0, "backends": backends, **over,
        }  # fmt: skip
        return {"revision": revision, "issued_at": time.time(), "default_env": "production", "routes": [route]}

    async def put(self, names: list[str], table: dict[str, Any]) -> None:
        for name in names:
            async with self.admin(name) as admin:
                assert (await admin.put_table(table))["revision"] == table["revision"]

    async def is_up(self, *names: str) -> None:
        for name in names:

            async def shakes(name: str = name) -> bool:
                async with self.admin(name) as admin:
                    return bool((await admin.handshake())["spawn_id"] == name)

            await until(shakes)

    async def backends_up(self, *names: str) -> None:
        for name in names:

            async def answers(name: str = name) -> bool:
                connector = aiohttp.UnixConnector(self.sock(name))
                async with aiohttp.ClientSession(connector=connector) as session:
                    with suppress(aiohttp.ClientError):
                        return (await session.get("http://b/ready")).status == 200
                return False

            await until(answers)

    async def rows(self, names: list[str]) -> list[dict[str, Any]]:
        """Every row of every kept snapshot of the workers."""
        rows = []
        for name in names:
            async with self.admin(name) as admin:
                rows += [row for snapshot in (await admin.counts())["snapshots"] for row in snapshot["rows"]]
        return rows

    async def total(self, names: list[str], field: str, **where: Any) -> int:
        """The sum of a field over all rows that have these values."""
        rows = await self.rows(names)
        return sum(int(row[field]) for row in rows if all(row[k] == v for k, v in where.items()))

    async def classes(self, names: list[str]) -> dict[str, int]:
        """How often each class of outcome was counted."""
        counted: dict[str, int] = {}
        for row in await self.rows(names):
            for name, number in row["codes"].items():
                counted[name] = counted.get(name, 0) + number
        return {name: number for name, number in counted.items() if number}

    async def failed_attempts(self, names: list[str]) -> float:
        """Attempts so far that another replica made good, as Prometheus would read it."""
        total = 0.0
        for name in names:
            async with self.admin(name) as admin:
                lines = (await admin.metrics()).splitlines()
            total += sum(float(line.split()[-1]) for line in lines if line.startswith("airboss_attempt_failures_total"))
        return total

    def close(self) -> None:
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.listener.close()


def _backend(track: str, release: str, weight: int, replicas: list[tuple[str, str]]) -> dict[str, Any]:
    return {"track": track, "release_id": release, "weight": weight, "replicas": [list(r) for r in replicas]}


@asynccontextmanager
async def opened_deck() -> AsyncIterator[Deck]:
    """A deck in a short directory of its own (a socket's path has 107 bytes at most); everything ends with it."""
    with tempfile.TemporaryDirectory(prefix="gw-", dir="/tmp") as root:
        deck = Deck(Path(root))
        try:
            yield deck
        finally:
            deck.close()


async def ask(session: aiohttp.ClientSession, url: str, **body: Any) -> Sample:
    """One completion: (status, served_by, headers). A broken connection is status 0."""
    try:
        async with session.post(f"{url}/v1/completions", json={"model": "chat", "prompt": "x", **body}) as answer:
            read = await answer.json()
            return answer.status, read.get("served_by", ""), dict(answer.headers)
    except aiohttp.ClientError as error:
        return 0, type(error).__name__, {}


async def read_until_cut(answer: aiohttp.ClientResponse) -> bytes:
    """All that came of an answer before it was cut off; fails when it came to a proper end."""
    text = b""
    try:
        async for chunk in answer.content.iter_any():
            text += chunk
    except aiohttp.ClientPayloadError:
        return text
    raise AssertionError("the stream came to a proper end")


class Load:
    """Closed-loop clients on keep-alive connections until stopped."""

    def __init__(self, url: str, clients: int = 12, **body: Any) -> None:
        self.samples: list[Sample] = []
        self._stop = asyncio.Event()
        self._tasks = [asyncio.create_task(self._client(url, body)) for _ in range(clients)]

    async def _client(self, url: str, body: dict[str, Any]) -> None:
        async with aiohttp.ClientSession() as session:
            while not self._stop.is_set():
                self.samples.append(await ask(session, url, **body))

    async def reaches(self, number: int) -> None:
        async def enough() -> bool:
            return len(self.samples) >= number

        await until(enough, 30)

    async def stop(self) -> list[Sample]:
        self._stop.set()
        await asyncio.gather(*self._tasks)
        return self.samples


class Raw:
    """A replica on the Unix socket `path`. It answers pings; what it does with a request is `behave`, a coroutine."""

    def __init__(self, path: str, behave: Behave) -> None:
        self.path = path
        self.behave = behave
        self.asked: list[tuple[dict[str, str], dict[str, Any]]] = []
        """Headers (lower case) and body of every request."""
        self.gone = asyncio.Event()
        """The gateway closed a connection while it was being answered."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self.path)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # Cancelled is closed by the test: asyncio's own callback would log it as an error otherwise.
        with suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines if line)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                if first.startswith("GET /ready"):
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                    continue
                self.asked.append((headers, json.loads(body)))
                await self.behave(self, reader, writer)
                await writer.drain()
        writer.transport.abort()

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


Behave = Callable[[Raw, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def says(text: str, status: int = 200, tokens: int = 5) -> Behave:
    """Answers a completion with `text`."""

    async def behave(raw: Raw, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        usage = {"prompt_tokens": 3, "completion_tokens": tokens}
        body = json.dumps({"served_by": Path(raw.path).stem, "choices": [{"text": text}], "usage": usage}).encode()
        head = f"HTTP/1.1 {status} Said\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)

    return behave


async def hangs(raw: Raw, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Takes the request and never answers; notes when the gateway leaves."""
    await reader.read()
    raw.gone.set()
    raise ConnectionError


async def babbles(raw: Raw, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers with what is not HTTP."""
    writer.write(b"\x16\x03\x01 220 smtp ready\r\n\r\n")
    await writer.drain()
    raise ConnectionError


async def stops_sending(raw: Raw, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends half an answer and closes its own half of the connection, but not the other."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
    await writer.drain()
    writer.write_eof()
    await reader.read()
    raise ConnectionError


EVENTS_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def event(value: Mapping[str, Any]) -> bytes:
    """A server-sent event as one chunk."""
    text = b"data: " + json.dumps(value).encode() + b"\n\n"
    return f"{len(text):x}\r\n".encode() + text + b"\r\n"


def streams(events: int, then: str) -> Behave:
    """Sends so many events, and then: "ends" properly, "waits" until the gateway leaves, or "dies"."""

    async def behave(raw: Raw, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(EVENTS_HEAD + b"".join(event({"choices": [{"text": f"w{n} "}]}) for n in range(events)))
        await writer.drain()
        if then == "dies":
            writer.transport.abort()
            raise ConnectionError
        if then == "ends":
            writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
            return
        await reader.read()
        raw.gone.set()
        raise ConnectionError

    return behave
