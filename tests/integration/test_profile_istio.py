"""Istio's metrics through airboss.toml to the judge: a page in their shape, a real Prometheus, and what becomes of a rollout."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import cast

import pytest

from engine.metrics_source import prometheus_of
from state.store import Store
from state.words import RolloutState, Track
from tests.exposition import Judged, Page, of, scraped
from tests.monitoring_servers import needs_prometheus
from tests.rollout_room import CONFIG, Counts, Room

pytestmark = pytest.mark.deep
BOUNDS = ("0.5", "1", "5", "10", "25", "50", "100", "250", "500", "1000", "2500", "5000", "10000")
"""Envoy's own buckets."""
TABLES = """
[metrics]
url = "{url}"
step = "1s"
profile = "istio"
labels = {{ destination_service_namespace = "prod" }}
[service.chat.metrics]
slow = "{slow}"
count_429 = {count_429}
"""


def toml(url: str, slow: str = "500ms", count_429: str = "false") -> str:
    """A workspace that is judged by Istio's counters."""
    return CONFIG + TABLES.format(url=url, slow=slow, count_429=count_429)


class Proxy(Page):
    """Istio's two metrics of one proxy."""

    def __init__(self) -> None:
        super().__init__()
        self.late: list[tuple[dict[str, str], int, int]] = []
        self.is_late = False

    def respond(self, track: str, count: int, code: str = "200", flags: str = "-", ms: int = 20, **labels: str) -> None:
        """So many responses of a track."""
        named = {
            "reporter": "source", "destination_service_name": f"chat-{track}", "destination_service_namespace": "prod",
            "response_code": code, "response_flags": flags, "request_protocol": "http", **labels,
        }  # fmt: skip
        self.add("istio_requests_total", named, count)
        self.late.append((named, ms, count))
        if not self.is_late:
            self.flush()

    def flush(self) -> None:
        """Merge the histograms, as Envoy does every five seconds."""
        for named, ms, count in self.late:
            self.observe("istio_request_duration_milliseconds", named, BOUNDS, ms, count)
        self.late.clear()


@needs_prometheus
async def test_first_errors_of_a_canary_count_and_a_clients_own_do_not(tmp_path: Path) -> None:
    proxy = Proxy()
    proxy.respond("stable", 1000)
    proxy.respond("canary", 10)
    async with scraped(tmp_path, proxy) as server:
        judged = Judged(toml(server.url), tmp_path)
        await judged.until(lambda seen: seen.intervals)
        proxy.respond("stable", 80)
        proxy.respond("stable", 5, ms=900)
        proxy.respond("stable", 7, code="404")
        proxy.respond("stable", 4, code="429")
        proxy.respond("canary", 30)
        proxy.respond("canary", 12, code="503", flags="UF")
        proxy.respond("canary", 9, code="0", flags="DC")
        proxy.respond("canary", 3, code="200", flags="DC,UPE")
        proxy.respond("canary", 40, code="500", destination_service_namespace="dev")
        proxy.respond("canary", 40, code="500", reporter="destination")
        assert await judged.sums(42) == ((85, 0, 5), (42, 12, 0))

        shedding = Judged(toml(server.url, count_429="true"), tmp_path, judged.since)
        assert await shedding.sums(42) == ((89, 4, 5), (42, 12, 0))

        unbounded = Judged(toml(server.url, slow="800ms"), tmp_path)
        trouble = (await unbounded.arms()).trouble
        assert trouble.startswith("series_missing: slow of") and "is 800 a bound of istio_request_duration" in trouble


@needs_prometheus
async def test_slow_ones_that_are_merged_after_their_requests_are_counted_with_them(tmp_path: Path) -> None:
    proxy = Proxy()
    proxy.respond("stable", 1000)
    proxy.respond("canary", 10)
    async with scraped(tmp_path, proxy) as server:
        judged = Judged(toml(server.url), tmp_path)
        await judged.until(lambda seen: seen.intervals)
        proxy.is_late = True
        proxy.respond("canary", 40)
        proxy.respond("canary", 6, ms=900)
        assert (await judged.sums(46))[1] == (46, 0, 0)
        proxy.flush()
        seen = await judged.until(lambda found: of(found, "canary")[2] >= 6)
        assert of(seen, "canary") == (46, 0, 6)
        assert all(one.canary.slow <= one.canary.requests for one in seen.intervals)


@needs_prometheus
@pytest.mark.parametrize(("code", "ends"), [("200", RolloutState.COMPLETED), ("503", RolloutState.ROLLED_BACK)])
async def test_a_canary_is_promoted_or_rolled_back_by_istios_counts(
    tmp_path: Path, code: str, ends: RolloutState
) -> None:
    proxy = Proxy()
    proxy.respond("stable", 1)
    async with scraped(tmp_path, proxy) as server:
        store = Store.open(tmp_path / "state.db")
        room = Room(store, tmp_path, toml(server.url))
        source = prometheus_of(room.config, tmp_path)
        assert source is not None
        room.counts = cast(Counts, source)
        room.start()
        plan = (await room.deploy("b", dry_run=True)).plan
        assert plan is not None
        assert (
            "production evidence",
            f"the counters of Istio (sidecars, waypoints, ingress gateway), at {server.url}",
        ) in [(line.object, line.after) for line in plan.lines]
        rollout = (await room.deploy("b")).ref.removeprefix("rollout/")
        deadline = time.monotonic() + 100
        while (row := room.row(rollout)).state != ends:
            assert time.monotonic() < deadline, (row.state, row.message)
            weights = room.weights()
            after = row.state in (RolloutState.VERIFYING, RolloutState.COMPLETED)
            for track, release in ((Track.STABLE, "b" if after else "a"), (Track.CANARY, "b")):
                if weights.get(release) and not (after and track == Track.CANARY):
                    proxy.respond(track, 2 * weights[release], code if track == Track.CANARY else "200")
            await asyncio.sleep(0.3)
            await room.look()
        assert row.message
        store.close()
