"""One gateway worker: a child process that serves the public port it inherited, until SIGTERM.

Workers know nothing of each other. They share one listening socket, which the engine opened, and one kept table.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import ssl
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler
from pydantic import TypeAdapter

from adapters.local.child import ChildSpec, run_child
from engine.gateway import logs
from engine.gateway.access.desk import Desk
from engine.gateway.access.door import Door
from engine.gateway.access.tls import certificates_of
from engine.gateway.admin import Admin
from engine.gateway.balance import Balance
from engine.gateway.counts import Counts
from engine.gateway.exchange import Recorder
from engine.gateway.feedback import Feedback
from engine.gateway.front import Front
from engine.gateway.handoff import Handoff
from engine.gateway.ledger import Rotated, Segments, Spool
from engine.gateway.listening import Acceptor, raise_descriptor_limit, run
from engine.gateway.logs import log
from engine.gateway.metrics import GatewayCollector, render
from engine.gateway.metrics_port import MetricsPort
from engine.gateway.pool import PING_EVERY_S, Pool
from engine.gateway.proxy import Proxy
from engine.gateway.quality.sampler import Sampler
from engine.gateway.routing.mirror import Mirrors
from engine.gateway.switch import KeptTable, Switchboard
from state.access_config import AccessConfig
from state.words import AirbossError

LINGER_S = 2.0
"""How long a leaving worker still answers on open connections, telling each client to close, before it closes them."""
DRAIN_S = 18.0
"""Below the 20 s after which the engine kills: a worker that is killed writes no last snapshot."""
OLD_S = {
    "counts-*.jsonl": 7 * 86_400.0,
    "ledger/*.jsonl": 30 * 86_400.0,
    "mirror-*.jsonl": 30 * 86_400.0,
    "shapes-*.jsonl": 7 * 86_400.0,
}
"""How long files that nobody writes to any more are kept. The engine has had a week to read counts."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The payload of a worker's spec."""

    listen_fd: int
    gateway_dir: Path
    fd_socket: str
    worker: int = 0
    max_inflight: int = 256
    retries: int = 1
    feedback_text: bool = False
    drain_s: float = DRAIN_S
    ping_every_s: float = PING_EVERY_S
    access: AccessConfig = field(default_factory=AccessConfig)
    metrics: tuple[str, int] | None = None
    """Where this worker's Prometheus page is served beside the admin socket."""


class Worker:
    """Wires the gateway's parts together and keeps them going."""

    def __init__(self, spec: ChildSpec) -> None:
        self.spec = spec
        self.settings = TypeAdapter(Settings).validate_python(spec.payload)
        directory = self.settings.gateway_dir
        (directory / "ledger").mkdir(parents=True, exist_ok=True)
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="disk")
        ledger = Segments(directory / "ledger", spec.spawn_id, max_bytes=16 << 20, keep=32)
        feedback = Segments(directory, f"feedback-{spec.spawn_id}", max_bytes=4 << 20, keep=32)
        self._snapshots = Spool(Rotated(directory / f"counts-{spec.spawn_id}.jsonl", max_bytes=8 << 20), self._disk)
        mirror = Segments(directory, f"mirror-{spec.spawn_id}", max_bytes=4 << 20, keep=32)
        self._spools = (
            self._snapshots,
            Spool(ledger, self._disk),
            Spool(feedback, self._disk),
            Spool(mirror, self._disk),
            Spool(Rotated(directory / f"shapes-{spec.spawn_id}.jsonl", max_bytes=4 << 20), self._disk),
        )
        self.counts = Counts(spec.spawn_id, time.time())
        self.pool = Pool(self.settings.ping_every_s)
        recorder = Recorder(self.counts, self._spools[1])
        mirrors = Mirrors(self.pool, self._spools[3])
        desk = Desk(self.settings.access, directory)
        self.proxy = Proxy(
            self.pool,
            recorder,
            mirrors,
            Sampler(self.counts, desk.checks),
            max_inflight=self.settings.max_inflight,
            retries=self.settings.retries,
        )
        self.front = Front(self.proxy, Feedback(self._spools[2], takes_text=self.settings.feedback_text), desk)
        self.kept = KeptTable(directory)
        self.switchboard = Switchboard(self.front, self.pool, self.counts, self.kept)
        self.balance = Balance(directory, self.settings.worker)
        self._certificates = certificates_of(self.settings.access, directory)
        self._leave = asyncio.Event()

    async def run(self) -> int:
        """Serve until told to leave, then drain. Returns the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._leave.set)
        _forget_old_files(self.settings.gateway_dir)
        await self._serve_kept_table()
        collector = GatewayCollector(self.front, lambda: logs.lost + sum(spool.dropped for spool in self._spools))
        protocol = Admin(self.spec, self.front, self.switchboard, collector, self._leave.set)
        admin = web.AppRunner(protocol.app(), access_log=None)
        await admin.setup()
        Path(self.spec.socket).unlink(missing_ok=True)
        await web.UnixSite(admin, self.spec.socket).start()
        os.chmod(self.spec.socket, 0o600)
        metrics = MetricsPort(self.settings.metrics, lambda: render(collector))
        metrics.open()
        handoff = Handoff(Path(self.settings.fd_socket), self.settings.listen_fd)
        handoff.open()
        server = self.door()
        listener = socket.socket(fileno=os.dup(self.settings.listen_fd))
        listening = Acceptor(listener, server, self.tls, lambda: self._yields(server))
        listening.open()
        gc.collect()
        gc.freeze()  # what is loaded by now lives for ever; walking it in each full collection would stall requests
        ticking = asyncio.create_task(self._tick(server))
        log("serving", spawn_id=self.spec.spawn_id, revision=self.front.table.revision if self.front.table else 0)
        await self._leave.wait()
        self.proxy.is_draining = True
        self.balance.leave()
        await metrics.close()
        listening.close()  # closes this worker's copy; the socket goes on listening for the others
        await self._drain(server)
        ticking.cancel()
        await self.proxy.mirrors.close()
        await self.proxy.sampler.close()
        await self._last_words()
        await self.pool.close()
        await self.front.desk.close()
        handoff.close()
        await admin.cleanup()
        log("left")
        return 0

    def door(self) -> Door:
        """The public HTTP server, not yet listening."""
        return Door(self.front.handle, self.settings.access.requests, self._request)

    @property
    def tls(self) -> Callable[[], ssl.SSLContext] | None:
        """What connections are encrypted with; None: they are not."""
        return self._certificates.context if self._certificates is not None else None

    def _request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> web.BaseRequest:
        loop = asyncio.get_running_loop()
        size = self.settings.access.requests.max_body_bytes
        return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=size)

    async def _serve_kept_table(self) -> None:
        try:
            table = self.kept.load()
        except (AirbossError, OSError) as error:
            log("kept_table_unusable", path=str(self.kept.path), error=str(error))
            return
        if table is not None:
            await self.switchboard.serve(table)

    def _yields(self, server: Door) -> bool:
        """Whether the next connection should be another worker's."""
        self.balance.note(server.open_connections)
        return self.balance.should_yield(server.open_connections)

    async def _tick(self, server: Door) -> None:
        """Close an interval each second and let the disk have what waits."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due = max(due + 1.0, loop.time())
            await asyncio.sleep(due - loop.time())
            self._close_interval()
            self.balance.note(server.open_connections)

    def _close_interval(self) -> list[Future[None]]:
        self._snapshots.add_text(self.counts.close_interval(time.time()))
        if (line := self.proxy.sampler.shapes.line(time.time())) is not None:
            self._spools[4].add_text(line)
        return [writing for spool in self._spools if (writing := spool.flush()) is not None]

    async def _drain(self, server: web.Server) -> None:
        """Finish what is in flight, until the deadline; then cut it."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0.05)  # connections accepted in the very moment of leaving become known
        linger_until, deadline = loop.time() + LINGER_S, loop.time() + self.settings.drain_s
        log("draining", inflight=self.proxy.inflight, connections=len(server.connections))
        while server.connections and loop.time() < deadline:
            if loop.time() >= linger_until:
                server.pre_shutdown()
            await asyncio.sleep(0.02)
        self.proxy.is_cutting = True
        await server.shutdown(0.5)

    async def _last_words(self) -> None:
        """Write the last snapshot and the last ledger lines, also behind a batch that is still being written."""
        self._close_interval()
        with suppress(TimeoutError):  # a stuck disk must not keep a drained worker alive
            async with asyncio.timeout(5):
                for _ in range(2):
                    writing = [w for spool in self._spools if (w := spool.flush()) is not None]
                    await asyncio.gather(*map(asyncio.wrap_future, writing), return_exceptions=True)
        self._disk.shutdown(wait=False, cancel_futures=True)


def _forget_old_files(directory: Path) -> None:
    """Remove what workers long dead have written; each has files of its own, and nobody else removes them."""
    for pattern, age_s in OLD_S.items():
        for path in directory.glob(pattern):
            with suppress(FileNotFoundError):  # another worker starting beside this one took it
                if time.time() - path.stat().st_mtime > age_s:
                    path.unlink()


async def _serve(spec: ChildSpec) -> int:
    return await Worker(spec).run()


def body(spec: ChildSpec) -> int:
    """The child's life."""
    raise_descriptor_limit()
    return run(_serve(spec))


def main(argv: list[str]) -> int:
    """Entry point: `python -P -m engine.gateway.worker SPEC.json`."""
    return run_child(argv, body)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
