"""Evidence from a Prometheus server: the gateway's own counters, or another's by its profile, asked by range and differenced here.

`increase()` extrapolates to non-integers and PromQL comparisons hide NaN, so raw counters are fetched and classified in
code (reference/delivery.md §F). The client library blocks; every call runs in a bounded thread with a deadline.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from adapters.guard import Guard
from adapters.ports import ArmCounts, ArmEvidence, Interval
from adapters.profiles.catalogue import questions_of
from adapters.profiles.lag import settled
from adapters.profiles.profile import Ask, Place, Questions
from adapters.prometheus_server import NoAnswer, PrometheusServer, Refused, no_answer
from state.metrics_config import ProfileChoice
from state.server_config import Credentials
from state.words import NoDataCause, Track, Unreachable, UsageError

Labels = tuple[tuple[str, str], ...]
"""All labels of a series but its name, sorted."""
Series = Mapping[Labels, Mapping[int, float]]
"""Labels → {Unix second: counter}."""

TIMEOUT_S = 5.0
UNASKED_S = 60.0


class PrometheusMetrics:
    """MetricsSource (adapters.ports) over `url`. `step_s` is the scrape interval."""

    def __init__(
        self,
        url: str,
        *,
        step_s: int = 5,
        credentials: Credentials | None = None,
        clock: Callable[[], float] = time.time,
        ask: Ask | None = None,
    ) -> None:
        self.url = url
        self.trouble = ""
        """Why the last question was not answered; "" when it was."""
        self.server = PrometheusServer(url, credentials or Credentials())
        self._silent: dict[tuple[str, str], tuple[float, float]] = {}
        """Of each service that had nothing to say when last asked: since when, and when that was."""
        self.guard = Guard("metrics", goes_on="rollbacks, service levels, the fleet's numbers; rollouts pause")
        self.step_s = step_s
        self.clock = clock
        self._ask = ask or _own
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="prometheus")

    async def arms(self, service: str, env: str, rollout_id: str, table_revision: int, since: float) -> ArmEvidence:
        """Stable and canary since `since`. Prometheus knows no table revision: the time of the step stands for it."""
        now = self.clock()
        try:
            asked = self._ask(service, env)
        except UsageError as error:
            text = f"{NoDataCause.SERIES_MISSING}: {error.message}"[:300]
            return self._lasting((service, env), ArmEvidence((), 0.0, None, text), now)
        try:
            answers = await self.guard.call(lambda: self._all(asked.queries, since, now), limit_s=TIMEOUT_S * 2)
        except NoAnswer as error:
            self.trouble = f"{error.cause}: {error.message}"[:300]
            return self._lasting((service, env), ArmEvidence((), 0.0, None, self.trouble), now)
        except (Unreachable, Refused) as error:
            self.trouble = f"{NoDataCause.UNREACHABLE}: {error.message}"[:300]
            return self._lasting((service, env), ArmEvidence((), 0.0, None, self.trouble), now)
        self.trouble = ""
        found = evidence_of(answers, now=now, step_s=self.step_s, metrics=asked.metrics, hint=asked.hint)
        if "slow" not in asked.queries:
            found = replace(found, lacks=("slow",))
        elif asked.is_lagging:
            found = replace(found, intervals=settled(found.intervals))
        return self._lasting((service, env), found, now)

    async def _all(self, queries: Mapping[str, str], since: float, now: float) -> dict[str, Series]:
        loop = asyncio.get_running_loop()
        asked = [loop.run_in_executor(self._threads, self._series, query, since, now) for query in queries.values()]
        try:
            return dict(zip(queries, await asyncio.gather(*asked), strict=True))
        except NoAnswer as error:
            raise NoAnswer(error.cause, f"{self.url} {error.message}") from None
        except Refused as error:
            raise Refused(f"{self.url} {error.message}") from None
        except Exception as error:
            # The library raises its own, requests' and urllib3's errors alike; each means: no evidence, and why.
            raise Unreachable(f"{self.url}: {no_answer(error)}") from error

    def _lasting(self, where: tuple[str, str], evidence: ArmEvidence, now: float) -> ArmEvidence:
        """With how long its trouble has lasted."""
        since, last = self._silent.pop(where, (now, now))
        if not evidence.trouble:
            return evidence
        # What was not asked for a while may have been well in between.
        since = since if 0 <= now - last <= UNASKED_S else now
        self._silent[where] = (since, now)
        return replace(evidence, trouble_s=now - since)

    def _series(self, query: str, start: float, end: float) -> dict[Labels, dict[int, float]]:
        return series_by_labels(self.server.range(query, start, end, self.step_s, timeout_s=TIMEOUT_S))


def _own(service: str, env: str) -> Questions:
    return questions_of(ProfileChoice(), Place(service, env, None, 0.0))


def series_by_labels(found: list[Mapping[str, Any]]) -> dict[Labels, dict[int, float]]:
    """Labels → {Unix second: counter}. Raises ValueError when a series has no track, or one stands twice."""
    series: dict[Labels, dict[int, float]] = {}
    for item in found:
        labels = tuple(sorted((name, str(value)) for name, value in item["metric"].items() if name != "__name__"))
        if not dict(labels).get("track") or labels in series:
            raise ValueError(f"a series without a track, or one that stands twice: {item['metric']}")
        series[labels] = {int(float(at)): float(value) for at, value in item["values"]}
    return series


def evidence_of(
    answers: Mapping[str, Series], *, now: float, step_s: int, metrics: str = "requests", hint: str = ""
) -> ArmEvidence:
    """Counters at scrape steps → intervals: each series differenced by itself, then added up by track.

    A sum would fall when one worker is not scraped, and its next difference would be another worker's whole life. So
    a step at which any series lacks a point is a gap, for both tracks.
    """
    times = sorted({at for points in answers["requests"].values() for at in points})
    if not times:
        return ArmEvidence((), 0.0, None, f"{NoDataCause.SERIES_MISSING}: {metrics} has no series of a track here")
    if any(
        not math.isfinite(value)
        for metric in answers.values()
        for points in metric.values()
        for value in points.values()
    ):
        return ArmEvidence((), 0.0, None, f"{NoDataCause.NOT_A_NUMBER}: a counter is not a number")
    if missing := _missing(answers):
        why = f"; {hint}" if hint and missing.startswith("slow") else ""
        return ArmEvidence((), 0.0, None, f"{NoDataCause.SERIES_MISSING}: {missing}{why}"[:300])
    counters = [
        _Counter(metric, dict(labels)["track"], min(points), points)
        for metric, series in answers.items()
        for labels, points in series.items()
        if points
    ]
    # Fresh copies of stable take stable's place where they were counted in this step.
    is_baseline = any(c.track == Track.BASELINE and c.has_risen for c in counters)
    beside = Track.BASELINE if is_baseline else Track.STABLE
    intervals, copies, gap = [], [], 0.0
    for t0, t1 in itertools.pairwise(times):
        arms = _arms(counters, t0, t1, beside) if t1 - t0 <= step_s * 1.5 else None
        if arms is None:
            gap += t1 - t0
        else:
            stable, canary, shadow = arms
            intervals.append(Interval(float(t0), float(t1), stable, canary))
            copies.append(Interval(float(t0), float(t1), stable, shadow))
    age_s = max(0.0, now - times[-1])
    return ArmEvidence(tuple(intervals), gap, age_s, is_baseline=is_baseline, copies=tuple(copies))


@dataclass(frozen=True, slots=True)
class _Counter:
    """One series of one worker: which metric and track it adds to, and when its first point is."""

    metric: str
    track: str
    first: int
    points: Mapping[int, float]

    @property
    def has_risen(self) -> bool:
        """It counted between its own first point here and its last: a track of this step is scraped later than the others."""
        return bool(self.rise(self.first, max(self.points)))

    def rise(self, t0: int, t1: int) -> float | None:
        """What it counted from t0 to t1, None when a point lacks. One that fell was reset and starts from nothing."""
        if t0 < self.first:
            return 0.0  # what it had counted before its first point was not counted in this step
        before, after = self.points.get(t0), self.points.get(t1)
        if before is None or after is None:
            return None
        return after if after < before else after - before


def _arms(counters: Iterable[_Counter], t0: int, t1: int, beside: str) -> tuple[ArmCounts, ...] | None:
    """`beside`, canary and shadow from t0 to t1, None when any series lacks a point."""
    risen: defaultdict[tuple[str, str], float] = defaultdict(float)
    for counter in counters:
        rise = counter.rise(t0, t1)
        if rise is None:
            return None
        risen[counter.track, counter.metric] += rise
    return tuple(
        ArmCounts(*(round(risen[track, metric]) for metric in ("requests", "errors", "slow")))
        for track in (beside, Track.CANARY, Track.SHADOW)
    )


def _missing(answers: Mapping[str, Series]) -> str:
    """What `errors` or `slow` lacks where `requests` has points, "" for nothing: absent is not "none was bad"."""
    wanted = _times_less_code(answers["requests"])
    for metric in sorted(answers.keys() - {"requests"}):
        has = _times_less_code(answers[metric])
        for labels, times in wanted.items():
            lacking = len(times - has.get(labels, set()))
            if lacking:
                named = ",".join(f"{name}={value}" for name, value in labels)
                return f"{metric} of {{{named}}} lacks {lacking} of {len(times)} points that requests has"
    return ""


def _times_less_code(series: Series) -> dict[Labels, set[int]]:
    times: defaultdict[Labels, set[int]] = defaultdict(set)
    for labels, points in series.items():
        times[tuple(pair for pair in labels if pair[0] != "code")].update(points)
    return times
