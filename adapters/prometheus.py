"""Evidence from a Prometheus server: the gateway's own counters, asked by range and differenced here.

`increase()` extrapolates to non-integers and PromQL comparisons hide NaN, so raw counters are fetched and classified in
code (reference/delivery.md §F). The client library blocks; every call runs in a bounded thread with a deadline.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from adapters.ports import ArmCounts, ArmEvidence, Interval
from state.words import COUNTS_AND_BAD, BadClass, NoDataCause

TIMEOUT_S = 5.0
_COUNTED = "|".join(c.value for c in BadClass if COUNTS_AND_BAD[c][0])
_BAD = "|".join(c.value for c in BadClass if COUNTS_AND_BAD[c] == (True, True))


class PrometheusMetrics:
    """MetricsSource (adapters.ports) over `url`. `step_s` is the scrape interval."""

    def __init__(self, url: str, *, step_s: int = 5, clock: Callable[[], float] = time.time) -> None:
        self.url = url
        self.step_s = step_s
        self.clock = clock
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="prometheus")

    async def arms(self, service: str, env: str, rollout_id: str, table_revision: int, since: float) -> ArmEvidence:
        """Stable and canary since `since`. Prometheus knows no table revision: the time of the step stands for it."""
        labels = f'service="{service}",env="{env}"'
        queries = {
            "requests": f'sum by (track) (airboss_requests_total{{{labels},code=~"{_COUNTED}"}})',
            "errors": f'sum by (track) (airboss_requests_total{{{labels},code=~"{_BAD}"}})',
            "slow": f"sum by (track) (airboss_slow_requests_total{{{labels}}})",
        }
        now = self.clock()
        loop = asyncio.get_running_loop()
        try:
            asked = [loop.run_in_executor(self._threads, self._range, query, since, now) for query in queries.values()]
            async with asyncio.timeout(TIMEOUT_S * 2):
                answers = dict(zip(queries, await asyncio.gather(*asked), strict=True))
        except (Exception, TimeoutError) as error:
            # The library raises its own, requests' and urllib3's errors alike; each means: no evidence, and why.
            said = f"{NoDataCause.UNREACHABLE}: {self.url}: {type(error).__name__}: {error}"
            return ArmEvidence((), 0.0, None, said[:300])
        return evidence_of(answers, since=since, now=now, step_s=self.step_s)

    def _range(self, query: str, start: float, end: float) -> dict[str, dict[int, float]]:
        from prometheus_api_client import PrometheusConnect

        client = PrometheusConnect(url=self.url, retry=None)
        found = client.custom_query_range(
            query=query, start_time=datetime.fromtimestamp(start, UTC), end_time=datetime.fromtimestamp(end, UTC),
            step=str(self.step_s), params={"timeout": f"{TIMEOUT_S:g}s"}, timeout=TIMEOUT_S,
        )  # fmt: skip
        return series_by_track(found)


def series_by_track(found: list[Mapping[str, Any]]) -> dict[str, dict[int, float]]:
    """track → {Unix second: counter}. Raises ValueError when a series has no track, or one stands twice."""
    series: dict[str, dict[int, float]] = {}
    for item in found:
        track = str(item["metric"].get("track", ""))
        if not track or track in series:
            raise ValueError(f"several series, or one without a track, where one a track was expected: {item['metric']}")
        series[track] = {int(float(at)): float(value) for at, value in item["values"]}
    return series


def evidence_of(
    answers: Mapping[str, Mapping[str, Mapping[int, float]]], *, since: float, now: float, step_s: int
) -> ArmEvidence:
    """Counters at scrape steps → intervals. A missing point is a gap; a counter that fell was reset and starts anew."""
    requests = answers["requests"]
    times = sorted({at for track in requests.values() for at in track})
    if not times:
        return ArmEvidence((), 0.0, None, f"{NoDataCause.SERIES_MISSING}: airboss_requests_total has no series here")
    for metric in answers.values():
        if any(not math.isfinite(value) for track in metric.values() for value in track.values()):
            return ArmEvidence((), 0.0, None, f"{NoDataCause.NOT_A_NUMBER}: a counter is not a number")
    intervals, gap = [], 0.0
    for t0, t1 in itertools.pairwise(times):
        if t1 - t0 > step_s * 1.5:
            gap += t1 - t0
            continue
        arms = {track: _grown(answers, track, t0, t1) for track in ("stable", "canary")}
        intervals.append(Interval(float(t0), float(t1), arms["stable"], arms["canary"]))
    return ArmEvidence(tuple(intervals), gap, max(0.0, now - times[-1]))


def _grown(answers: Mapping[str, Mapping[str, Mapping[int, float]]], track: str, t0: int, t1: int) -> ArmCounts:
    values = []
    for metric in ("requests", "errors", "slow"):
        points = answers[metric].get(track, {})
        before, after = points.get(t0), points.get(t1)
        if after is None:
            values.append(0)
        elif before is None or after < before:
            values.append(round(after))
        else:
            values.append(round(after - before))
    return ArmCounts(*values)
