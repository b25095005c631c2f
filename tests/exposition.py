"""A page in a server's documented shape, and a real Prometheus that scrapes it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter as Tally
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from adapters.ports import ArmEvidence
from engine.metrics_source import prometheus_of
from state.config import parse_config
from tests.monitoring_servers import Server, free_port, prometheus

Key = tuple[str, tuple[tuple[str, str], ...]]
WHAT = ("requests", "errors", "slow")


class Page:
    """Counters by name and labels, as one exporter shows them."""

    def __init__(self) -> None:
        self.counts: Tally[Key] = Tally()
        self.port = free_port()

    def add(self, metric: str, labels: Mapping[str, str], count: float = 1) -> None:
        """Count further; 0 brings a series into being."""
        key = (metric, tuple(sorted(labels.items())))
        self.counts[key] = self.counts[key] + count  # type: ignore[assignment]

    def observe(
        self, metric: str, labels: Mapping[str, str], bounds: Sequence[str], value: float, count: int = 1
    ) -> None:
        """`count` observations of `value` in a histogram with `bounds`."""
        for le in (*bounds, "+Inf"):
            self.add(f"{metric}_bucket", {**labels, "le": le}, count if value <= float(le) else 0)
        self.add(f"{metric}_count", labels, count)
        self.add(f"{metric}_sum", labels, count * value)

    async def show(self, _: web.Request) -> web.Response:
        lines = []
        for (metric, labels), count in sorted(self.counts.items()):
            inside = ",".join(f'{name}="{value}"' for name, value in labels)
            lines.append(f"{metric}{{{inside}}} {count}")
        return web.Response(text="\n".join(lines) + "\n")


@asynccontextmanager
async def scraped(root: Path, *pages: Page, honor_labels: bool = False) -> AsyncIterator[Server]:
    """A Prometheus that scrapes the pages."""
    runners = []
    for page in pages:
        app = web.Application()
        app.router.add_get("/metrics", page.show)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", page.port).start()
        runners.append(runner)
    targets = [f"127.0.0.1:{page.port}" for page in pages]
    server = await asyncio.to_thread(prometheus, root / "prometheus", targets, honor_labels=honor_labels)
    try:
        yield server
    finally:
        server.stop()
        for runner in runners:
            await runner.cleanup()


class Judged:
    """What the judge would be given of `chat` in production, by a workspace's own wiring."""

    def __init__(self, toml: str, root: Path, since: float | None = None) -> None:
        source = prometheus_of(parse_config(toml, Path("airboss.toml")), root)
        assert source is not None
        self.source = source
        self.since = since or time.time() - 3

    async def arms(self) -> ArmEvidence:
        return await self.source.arms("chat", "production", "ro-1", 1, self.since)

    async def until(self, is_so: Callable[[ArmEvidence], Any], within_s: float = 60.0) -> ArmEvidence:
        """Ask until the evidence is so."""
        deadline = time.monotonic() + within_s
        while not is_so(seen := await self.arms()):
            assert time.monotonic() < deadline, seen
            await asyncio.sleep(0.2)
        return seen

    async def sums(self, canary_requests: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(requests, errors, slow) of stable and canary, once the canary has so many requests."""
        seen = await self.until(lambda found: of(found, "canary")[0] >= canary_requests)
        return of(seen, "stable"), of(seen, "canary")


def of(seen: ArmEvidence, arm: str) -> tuple[int, ...]:
    """One arm's requests, errors and slow ones."""
    return tuple(sum(getattr(getattr(one, arm), what) for one in seen.intervals) for what in WHAT)
