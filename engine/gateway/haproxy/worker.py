"""A gateway worker that lets HAProxy carry the traffic: the same admin protocol, table, counts and handing over of the port."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aiohttp import web
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from pydantic import TypeAdapter

from adapters.local.child import ChildSpec, run_child
from adapters.local.haproxy.config import Settings as HaproxySettings
from adapters.local.haproxy.config import backend_name, servers
from adapters.local.haproxy.process import Haproxy
from adapters.local.haproxy.runtime import find_binary
from engine.gateway.answers import json_answer
from engine.gateway.counts import Counts
from engine.gateway.handoff import Handoff
from engine.gateway.haproxy.counting import LogCounter, LogPipe
from engine.gateway.ledger import Rotated, Spool
from engine.gateway.listening import raise_descriptor_limit, run
from engine.gateway.logs import log
from engine.gateway.metrics import of_totals, render
from engine.gateway.metrics_port import MetricsPort
from engine.gateway.switch import KeptTable
from engine.gateway.table import RoutingTable, parse_table
from state.words import AirbossError, Conflict, UsageError

DRAIN_S = 18.0
MAX_TABLE_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Settings:
    """The payload of this worker's spec; what only a worker of our own knows is left aside."""

    listen_fd: int
    gateway_dir: Path
    fd_socket: str
    worker: int = 0
    max_inflight: int = 256
    retries: int = 1
    metrics: tuple[str, int] | None = None


class TotalsCollector(Collector):
    """The worker's Prometheus page, from its counters."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        """Every metric that HAProxy's log can fill."""
        yield from of_totals(self._counts.totals)


class HaproxyWorker:
    """Drives one HAProxy by the tables it is given."""

    def __init__(self, spec: ChildSpec) -> None:
        self.spec = spec
        self.settings = TypeAdapter(Settings).validate_python(spec.payload)
        self.table: RoutingTable | None = None
        self.is_draining = False
        self.restarts = 0
        directory = self.settings.gateway_dir
        own = directory / spec.spawn_id
        own.mkdir(parents=True, exist_ok=True)
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="disk")
        self._snapshots = Spool(Rotated(directory / f"counts-{spec.spawn_id}.jsonl", max_bytes=8 << 20), self._disk)
        self.counts = Counts(spec.spawn_id, time.time())
        self.counter = LogCounter(self.counts, lambda: self.table)
        self.kept = KeptTable(directory)
        self._log_pipe = LogPipe(self.counter.count)
        binary, env = find_binary()
        self.haproxy = Haproxy(binary, env, own, f"{spec.socket}.h", self._settings_of, self._restarted)
        self._leave = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()

    async def run(self) -> int:
        """Serve until told to leave, then let HAProxy finish. Returns the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._leave.set)
        self._log_pipe.open()
        await self._serve_kept_table()
        admin = web.AppRunner(self._app(), access_log=None)
        await admin.setup()
        Path(self.spec.socket).unlink(missing_ok=True)
        await web.UnixSite(admin, self.spec.socket).start()
        os.chmod(self.spec.socket, 0o600)
        collector = TotalsCollector(self.counts)
        metrics = MetricsPort(self.settings.metrics, lambda: render(collector))
        metrics.open()
        handoff = Handoff(Path(self.settings.fd_socket), self.settings.listen_fd)
        handoff.open()
        ticking = asyncio.create_task(self._tick())
        log("serving", spawn_id=self.spec.spawn_id, engine="haproxy", pid=self.haproxy.pid)
        await self._leave.wait()
        self.is_draining = True
        await metrics.close()
        await self.haproxy.drain(DRAIN_S)
        ticking.cancel()
        self._log_pipe.close()
        self._close_interval()
        await asyncio.to_thread(self._disk.shutdown)
        handoff.close()
        await admin.cleanup()
        for path in Path(self.spec.socket).parent.glob(f"{Path(self.spec.socket).name}.h*"):
            path.unlink(missing_ok=True)
        log("left")
        return 0

    async def put(self, table: RoutingTable) -> dict[str, Any]:
        """Serve `table`, then keep it. Raises Conflict when it is not newer, and what HAProxy refuses."""
        async with self._one_at_a_time:
            current = self.table
            is_unchanged = current is not None and replace(table, issued_at=current.issued_at) == current
            if current is not None and table.revision <= current.revision and not is_unchanged:
                hint = f"read the served table and issue revision {current.revision + 1} or later"
                raise Conflict(
                    f"revision {table.revision} is not newer than {current.revision}, which is served", hint=hint
                )
            await self._serve(table)
            try:
                await asyncio.to_thread(self.kept.keep, table)
                kept_error = ""
            except OSError as error:
                kept_error = str(error)
        served = {"revision": table.revision, "spawn_id": self.spec.spawn_id, "unchanged": is_unchanged}
        return {**served, "kept": not kept_error, "kept_error": kept_error}

    async def _serve(self, table: RoutingTable) -> None:
        _refuse(table)
        await self.haproxy.serve(table.default_env, table.routes)
        self.counts.serve(table)
        self.table = table

    async def _serve_kept_table(self) -> None:
        try:
            table = self.kept.load()
            if table is not None:
                await self._serve(table)
        except (AirbossError, OSError) as error:
            log("kept_table_unusable", path=str(self.kept.path), error=str(error))

    def _settings_of(self, admin_socket: str) -> HaproxySettings:
        own = self.settings
        return HaproxySettings(
            own.listen_fd, admin_socket, self._log_pipe.writer, own.max_inflight, own.retries, DRAIN_S
        )

    def _restarted(self, why: str) -> None:
        self.restarts += 1
        log("haproxy_restarted", why=why, times=self.restarts)

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due = max(due + 1.0, loop.time())
            await asyncio.sleep(due - loop.time())
            self._close_interval()

    def _close_interval(self) -> None:
        self._snapshots.add_text(self.counts.close_interval(time.time()))
        self._snapshots.flush()

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=MAX_TABLE_BYTES)
        app.add_routes(
            [
                web.get("/admin/handshake", self._handshake),
                web.get("/admin/table", self._get_table),
                web.put("/admin/table", self._put_table),
                web.get("/admin/counts", self._counts),
                web.get("/admin/health", self._health),
                web.get("/metrics", self._metrics),
                web.post("/admin/drain", self._drain),
            ]
        )
        return app

    async def _handshake(self, request: web.Request) -> web.Response:
        facts = {
            "worker": self.settings.worker,
            "revision": self.table.revision if self.table else 0,
            "draining": self.is_draining,
            "engine": "haproxy",
            "haproxy_pid": self.haproxy.pid,
            "haproxy_restarts": self.restarts,
            "unread_log_lines": self.counter.unread,
        }
        return json_answer({**self.spec.identity(), **facts})

    async def _get_table(self, request: web.Request) -> web.Response:
        if self.table is None:
            return _problem(404, UsageError("no routing table has been put yet", code="no_table"))
        return json_answer(self.table.to_json())

    async def _put_table(self, request: web.Request) -> web.Response:
        try:
            return json_answer(await self.put(parse_table(await request.read())))
        except UsageError as error:
            return _problem(400, error)
        except Conflict as error:
            return _problem(409, error)
        except AirbossError as error:
            return _problem(503, error)

    async def _counts(self, request: web.Request) -> web.Response:
        after = request.query.get("after", "0")
        if not after.isdecimal():
            return _problem(400, UsageError(f"after={after[:40]!r} is not a snapshot's seq", code="bad_after"))
        return web.Response(text=self.counts.after(int(after)), content_type="application/json")

    async def _health(self, request: web.Request) -> web.Response:
        healthy = await self.haproxy.healthy()
        replicas = []
        for route in self.table.routes if self.table else ():
            spawn_ids = {address: spawn_id for b in route.backends for spawn_id, address in b.replicas}
            for server in servers(route):
                facts = {"spawn_id": spawn_ids[server.address], "address": server.address, "server": server.name}
                replicas.append({**facts, "healthy": healthy.get((backend_name(route), server.name), False)})
        return json_answer({"boot_id": self.spec.spawn_id, "replicas": replicas})

    async def _metrics(self, request: web.Request) -> web.Response:
        headers = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        return web.Response(body=render(TotalsCollector(self.counts)), headers=headers)

    async def _drain(self, request: web.Request) -> web.Response:
        self._leave.set()
        return json_answer({"draining": True}, 202)


def _refuse(table: RoutingTable) -> None:
    """Raise UsageError for a route that wants what HAProxy cannot carry: refused, never dropped."""
    for route in table.routes:
        wants = "routing rules" if route.routing is not None else "a cache or safety checks" if route.access else ""
        if wants:
            raise UsageError(
                f"{route.service} in {route.env} wants {wants}, which [gateway] engine = 'haproxy' cannot carry",
                hint="take them out of airboss.toml, or set engine = 'airboss'",
                code="haproxy_cannot",
            )


def _problem(status: int, error: AirbossError) -> web.Response:
    return json_answer({"error": error.as_dict()}, status)


async def _serve(spec: ChildSpec) -> int:
    return await HaproxyWorker(spec).run()


def body(spec: ChildSpec) -> int:
    """The child's life."""
    raise_descriptor_limit()  # HAProxy sizes itself by what it may have
    return run(_serve(spec))


def main(argv: list[str]) -> int:
    """Entry point: `python -P -m engine.gateway.haproxy.worker SPEC.json`."""
    return run_child(argv, body)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
