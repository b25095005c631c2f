"""The worker's Prometheus page on a port of its own, for a server that scrapes it: one port a worker, its slot's.

A server must ask each worker, for each counts what it served itself; and always the same one at the same address, or a
counter would jump between them.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable

from aiohttp import web

from engine.gateway.logs import log

RETRY_S = 5.0
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class MetricsPort:
    """`/metrics` on `host:port` once opened. A port that is taken is told of and tried again: traffic goes on without it."""

    def __init__(self, address: tuple[str, int] | None, page: Callable[[], bytes]) -> None:
        self.address = address
        self._page = page
        self._runner: web.AppRunner | None = None
        self._opening: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin to answer, now or as soon as the port is free. Without an address there is nothing to do."""
        if self.address is not None:
            self._opening = asyncio.create_task(self._until_open(*self.address))

    async def close(self) -> None:
        """Stop answering: the worker that follows takes the port."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _until_open(self, host: str, port: int) -> None:
        app = web.Application()
        app.add_routes([web.get("/metrics", self._answer)])
        runner = self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        said = False
        while True:
            try:
                await web.SockSite(runner, _bound(host, port)).start()
                log("metrics_served", address=f"{host}:{port}")
                return
            except OSError as error:
                if not said:
                    log("metrics_port_taken", address=f"{host}:{port}", error=os.strerror(error.errno or 0))
                said = True
                await asyncio.sleep(RETRY_S)

    async def _answer(self, request: web.Request) -> web.Response:
        return web.Response(body=self._page(), headers={"content-type": CONTENT_TYPE})


def _bound(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener
