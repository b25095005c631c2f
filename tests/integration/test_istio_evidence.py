"""A real Prometheus that scrapes a proxy with Istio's names: what the judge's counts are then."""

from __future__ import annotations

import asyncio
import time
from collections import Counter as Tally
from pathlib import Path

from aiohttp import web

from adapters.profiles.istio import istio_queries
from adapters.prometheus import PrometheusMetrics
from tests.monitoring_servers import free_port, needs_prometheus, prometheus


class Proxy:
    """Istio's counters, of responses by (track, code, flags, milliseconds)."""

    def __init__(self) -> None:
        self.seen: Tally[tuple[str, str, str, int]] = Tally()

    async def page(self, _: web.Request) -> web.Response:
        lines = []
        took = "istio_request_duration_milliseconds"
        for (track, code, flags, ms), count in sorted(self.seen.items()):
            labels = (
                f'reporter="source",destination_service_name="chat-{track}",destination_service_namespace="prod",'
                f'response_code="{code}",response_flags="{flags}",connection_security_policy="t{ms}"'
            )
            lines.append(f"istio_requests_total{{{labels}}} {count}")
            lines.append(f'{took}_bucket{{{labels},le="500"}} {count if ms <= 500 else 0}')
            lines.append(f'{took}_bucket{{{labels},le="+Inf"}} {count}')
            lines.append(f"{took}_count{{{labels}}} {count}")
        return web.Response(text="\n".join(lines) + "\n")


@needs_prometheus
async def test_first_errors_of_a_canary_count_and_a_clients_own_do_not(tmp_path: Path) -> None:
    proxy = Proxy()
    proxy.seen.update({("stable", "200", "-", 20): 1000, ("canary", "200", "-", 20): 10})
    app = web.Application()
    app.router.add_get("/metrics", proxy.page)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    server = await asyncio.to_thread(prometheus, tmp_path / "prometheus", [f"127.0.0.1:{port}"])
    source = PrometheusMetrics(server.url, step_s=1, queries=lambda service, _: istio_queries(service, "prod", 500))
    try:
        since = time.time() - 3
        deadline = time.monotonic() + 30
        while not (seen := await source.arms("chat", "production", "ro-1", 1, since)).intervals:
            assert time.monotonic() < deadline, seen
            await asyncio.sleep(0.2)
        proxy.seen.update(
            {("stable", "200", "-", 20): 80, ("stable", "200", "-", 900): 5, ("stable", "404", "-", 20): 7}
        )
        proxy.seen.update(
            {("canary", "200", "-", 20): 30, ("canary", "503", "UF", 20): 12, ("canary", "0", "DC", 20): 9}
        )
        while True:
            seen = await source.arms("chat", "production", "ro-1", 1, since)
            stable, canary = (
                tuple(
                    sum(getattr(getattr(i, arm), what) for i in seen.intervals)
                    for what in ("requests", "errors", "slow")
                )
                for arm in ("stable", "canary")
            )
            if canary[0] >= 42:
                break
            assert time.monotonic() < deadline, seen
            await asyncio.sleep(0.3)
        assert (stable, canary) == ((85, 0, 5), (42, 12, 0))
        unbounded = PrometheusMetrics(server.url, step_s=1, queries=lambda s, _: istio_queries(s, "prod", 800))
        assert "series_missing" in (await unbounded.arms("chat", "production", "ro-1", 1, since)).trouble.lower()
    finally:
        server.stop()
        await runner.cleanup()
