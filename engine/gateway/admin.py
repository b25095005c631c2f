"""The admin protocol on the worker's own Unix socket: for the engine, the scraper, and `rollback --emergency`."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from adapters.local.child import ChildSpec
from engine.gateway.answers import json_answer
from engine.gateway.front import Front
from engine.gateway.metrics import GatewayCollector, render
from engine.gateway.switch import Switchboard
from engine.gateway.table import parse_table
from state.words import AirbossError, Conflict, UsageError

MAX_TABLE_BYTES = 16 << 20


class Admin:
    """Answers the admin protocol of one worker."""

    def __init__(
        self,
        spec: ChildSpec,
        front: Front,
        switchboard: Switchboard,
        collector: GatewayCollector,
        drain: Callable[[], None],
    ) -> None:
        self._spec = spec
        self._front = front
        self._switchboard = switchboard
        self._collector = collector
        self._drain = drain

    def app(self) -> web.Application:
        """The routes."""
        app = web.Application(client_max_size=MAX_TABLE_BYTES)
        app.add_routes(
            [
                web.get("/admin/handshake", self.handshake),
                web.get("/admin/table", self.get_table),
                web.put("/admin/table", self.put_table),
                web.get("/admin/counts", self.counts),
                web.get("/admin/health", self.health),
                web.get("/metrics", self.metrics),
                web.post("/admin/drain", self.drain),
            ]
        )
        return app

    async def handshake(self, request: web.Request) -> web.Response:
        """Who this worker is, and the revision it serves (0 for none)."""
        table = self._front.table
        facts = {
            "worker": self._spec.payload.get("worker", 0),
            "revision": table.revision if table else 0,
            "draining": self._front.proxy.is_draining,
            "inflight": self._front.proxy.inflight,
        }
        return json_answer({**self._spec.identity(), **facts})

    async def get_table(self, request: web.Request) -> web.Response:
        """The table served."""
        table = self._front.table
        if table is None:
            return _problem(404, UsageError("no routing table has been put yet", code="no_table"))
        return json_answer(table.to_json())

    async def put_table(self, request: web.Request) -> web.Response:
        """Serve another table: 200 once it is served, 409 when it is not newer, 400 when it is refused."""
        try:
            switched = await self._switchboard.put(parse_table(await request.read()))
        except UsageError as error:
            return _problem(400, error)
        except Conflict as error:
            return _problem(409, error)
        return json_answer(
            {
                "revision": switched.revision,
                "spawn_id": self._spec.spawn_id,
                "unchanged": switched.is_unchanged,
                "kept": not switched.kept_error,
                "kept_error": switched.kept_error,
            }
        )

    async def counts(self, request: web.Request) -> web.Response:
        """Count snapshots later than `after`."""
        after = request.query.get("after", "0")
        if not after.isdecimal():
            return _problem(400, UsageError(f"after={after[:40]!r} is not a snapshot's seq", code="bad_after"))
        return web.Response(text=self._front.proxy.recorder.counts.after(int(after)), content_type="application/json")

    async def health(self, request: web.Request) -> web.Response:
        """Every replica as this worker sees it."""
        pool = self._front.proxy.pool
        replicas = [
            {
                "spawn_id": replica.spawn_id,
                "address": replica.address,
                "healthy": replica.health.is_healthy,
                "since": replica.health.since,
                "misses": replica.health.misses,
                "last_error": replica.health.last_error,
                "circuit_open": pool.breakers.is_open(replica.spawn_id),
                "takes_requests": replica.spawn_id in pool.healthy,
                "inflight": pool.inflight.get(replica.spawn_id, 0),
                "retired": replica.is_retired,
            }
            for replica in pool.replicas.values()
        ]
        return json_answer({"boot_id": self._spec.spawn_id, "replicas": replicas})

    async def metrics(self, request: web.Request) -> web.Response:
        """Prometheus text."""
        return web.Response(
            body=render(self._collector), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    async def drain(self, request: web.Request) -> web.Response:
        """Begin to leave, as SIGTERM does."""
        self._drain()
        return json_answer({"draining": True, "inflight": self._front.proxy.inflight}, 202)


def _problem(status: int, error: AirbossError) -> web.Response:
    return json_answer({"error": error.as_dict()}, status)
