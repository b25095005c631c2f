"""Evidence from a Prometheus server: the gateway's own counters, asked by range and differenced here.

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
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from adapters.guard import Guard
from adapters.ports import ArmCounts, ArmEvidence, Interval
from state.server_config import Credentials
from state.words import COUNTS_AND_BAD, BadClass, NoDataCause, Track, Unreachable

if TYPE_CHECKING:
    from requests import Response

Labels = tuple[tuple[str, str], ...]
"""All labels of a series but its name, sorted."""
Series = Mapping[Labels, Mapping[int, float]]
"""Labels → {Unix second: counter}."""

TIMEOUT_S = 5.0
UNASKED_S = 60.0
_COUNTED = "|".join(c.value for c in BadClass if COUNTS_AND_BAD[c][0])
_BAD = "|".join(c.value for c in BadClass if COUNTS_AND_BAD[c] == (True, True))


class PrometheusMetrics:
    """MetricsSource (adapters.ports) over `url`. `step_s` is the scrape interval."""

    def __init__(
        self,
        url: str,
        *,
        step_s: int = 5,
        credentials: Credentials | None = None,
        clock: Callable[[], float] = time.time,
        queries: Callable[[str, str], Mapping[str, str]] | None = None,
    ) -> None:
        self.url = url
        self.trouble = ""
        """Why the last question was not answered; "" when it was."""
        self._credentials = credentials or Credentials()
        self._silent: dict[tuple[str, str], tuple[float, float]] = {}
        """Of each service that had nothing to say when last asked: since when, and when that was."""
        self.guard = Guard("metrics", goes_on="rollbacks, service levels, the fleet's numbers; rollouts pause")
        self.step_s = step_s
        self.clock = clock
        self._queries = queries or own_queries
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="prometheus")

    async def arms(self, service: str, env: str, rollout_id: str, table_revision: int, since: float) -> ArmEvidence:
        """Stable and canary since `since`. Prometheus knows no table revision: the time of the step stands for it."""
        queries = self._queries(service, env)
        now = self.clock()
        try:
            answers = await self.guard.call(lambda: self._all(queries, since, now), limit_s=TIMEOUT_S * 2)
        except _NoAnswer as error:
            self.trouble = f"{error.cause}: {error.message}"[:300]
            return self._lasting((service, env), ArmEvidence((), 0.0, None, self.trouble), now)
        except Unreachable as error:
            self.trouble = f"{NoDataCause.UNREACHABLE}: {error.message}"[:300]
            return self._lasting((service, env), ArmEvidence((), 0.0, None, self.trouble), now)
        self.trouble = ""
        return self._lasting((service, env), evidence_of(answers, since=since, now=now, step_s=self.step_s), now)

    async def _all(self, queries: Mapping[str, str], since: float, now: float) -> dict[str, Series]:
        loop = asyncio.get_running_loop()
        asked = [loop.run_in_executor(self._threads, self._range, query, since, now) for query in queries.values()]
        try:
            return dict(zip(queries, await asyncio.gather(*asked), strict=True))
        except _NoAnswer as error:
            raise _NoAnswer(error.cause, f"{self.url} {error.message}") from None
        except Exception as error:
            # The library raises its own, requests' and urllib3's errors alike; each means: no evidence, and why.
            raise Unreachable(f"{self.url}: {type(error).__name__}: {error}") from error

    def _lasting(self, where: tuple[str, str], evidence: ArmEvidence, now: float) -> ArmEvidence:
        """With how long its trouble has lasted."""
        since, last = self._silent.pop(where, (now, now))
        if not evidence.trouble:
            return evidence
        # What was not asked for a while may have been well in between.
        since = since if 0 <= now - last <= UNASKED_S else now
        self._silent[where] = (since, now)
        return replace(evidence, trouble_s=now - since)

    def _range(self, query: str, start: float, end: float) -> dict[Labels, dict[int, float]]:
        from prometheus_api_client import PrometheusConnect
        from requests import Session
        from urllib3.util import Retry

        own = self._credentials
        session = Session()
        session.verify, session.cert = own.ca or True, own.client
        session.hooks["response"].append(_look_at)
        client = PrometheusConnect(
            url=self.url,
            headers=own.headers or None,
            auth=own.basic,
            session=session,
            retry=Retry(total=0, raise_on_status=False),
        )
        found = client.custom_query_range(
            query=query, start_time=datetime.fromtimestamp(start, UTC), end_time=datetime.fromtimestamp(end, UTC),
            step=str(self.step_s), params={"timeout": f"{TIMEOUT_S:g}s"}, timeout=TIMEOUT_S,
        )  # fmt: skip
        return series_by_labels(found)


def own_queries(service: str, env: str) -> Mapping[str, str]:
    """PromQL for `requests`, `errors` and `slow` of our gateway's own counters."""
    labels = f'service="{service}",env="{env}"'
    return {
        "requests": f'airboss_requests_total{{{labels},code=~"{_COUNTED}"}}',
        "errors": f'airboss_requests_total{{{labels},code=~"{_BAD}"}}',
        "slow": f"airboss_slow_requests_total{{{labels}}}",
    }


class _NoAnswer(Unreachable):
    """An answer that must not be used; the text says what it was and what to do."""

    def __init__(self, cause: NoDataCause, text: str) -> None:
        super().__init__(text)
        self.cause = cause


def _look_at(response: Response, *_: Any, **__: Any) -> None:
    """Refuse what the library would take, or say in its own words: a login page, a refusal, a part of the answer.

    An answer with `warnings` lacks what a store behind the server did not give (remote read, Thanos, Mimir): whole by its form, and
    short of the errors that would have failed a canary.
    """
    status = response.status_code
    if status in (401, 403):
        raise _NoAnswer(NoDataCause.UNREACHABLE, f"does not let us in ({status}): see [metrics] access in airboss.toml")
    try:
        body = response.json()
    except ValueError:
        text = f"answered {status} with no JSON: a proxy's page? see [metrics] url in airboss.toml"
        raise _NoAnswer(NoDataCause.UNREACHABLE, text) from None
    said = body if isinstance(body, dict) else {}
    if status >= 400 or said.get("status") != "success":
        raise _NoAnswer(NoDataCause.UNREACHABLE, f"answered {status}: {said.get('error', 'no reason given')}")
    if warnings := said.get("warnings"):
        raise _NoAnswer(NoDataCause.PARTIAL, f"gave a part of the answer: {warnings[0]}")


def series_by_labels(found: list[Mapping[str, Any]]) -> dict[Labels, dict[int, float]]:
    """Labels → {Unix second: counter}. Raises ValueError when a series has no track, or one stands twice."""
    series: dict[Labels, dict[int, float]] = {}
    for item in found:
        labels = tuple(sorted((name, str(value)) for name, value in item["metric"].items() if name != "__name__"))
        if not dict(labels).get("track") or labels in series:
            raise ValueError(f"a series without a track, or one that stands twice: {item['metric']}")
        series[labels] = {int(float(at)): float(value) for at, value in item["values"]}
    return series


def evidence_of(answers: Mapping[str, Series], *, since: float, now: float, step_s: int) -> ArmEvidence:
    """Counters at scrape steps → intervals: each series differenced by itself, then added up by track.

    A sum would fall when one worker is not scraped, and its next difference would be another worker's whole life. So
    a step at which any series lacks a point is a gap, for both tracks.
    """
    times = sorted({at for points in answers["requests"].values() for at in points})
    if not times:
        return ArmEvidence((), 0.0, None, f"{NoDataCause.SERIES_MISSING}: airboss_requests_total has no series here")
    if any(
        not math.isfinite(value)
        for metric in answers.values()
        for points in metric.values()
        for value in points.values()
    ):
        return ArmEvidence((), 0.0, None, f"{NoDataCause.NOT_A_NUMBER}: a counter is not a number")
    if missing := _missing(answers):
        return ArmEvidence((), 0.0, None, f"{NoDataCause.SERIES_MISSING}: {missing}"[:300])
    counters = [
        _Counter(metric, dict(labels)["track"], min(points), points)
        for metric, series in answers.items()
        for labels, points in series.items()
        if points
    ]
    # Fresh copies of stable take stable's place where they were counted in this step.
    is_baseline = any(c.track == Track.BASELINE and c.has_risen for c in counters)
    beside = Track.BASELINE if is_baseline else Track.STABLE
    intervals, gap = [], 0.0
    for t0, t1 in itertools.pairwise(times):
        arms = _arms(counters, t0, t1, beside) if t1 - t0 <= step_s * 1.5 else None
        if arms is None:
            gap += t1 - t0
        else:
            intervals.append(Interval(float(t0), float(t1), *arms))
    return ArmEvidence(tuple(intervals), gap, max(0.0, now - times[-1]), is_baseline=is_baseline)


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


def _arms(counters: Iterable[_Counter], t0: int, t1: int, beside: str) -> tuple[ArmCounts, ArmCounts] | None:
    """`beside` and canary from t0 to t1, None when any series lacks a point."""
    risen: defaultdict[tuple[str, str], float] = defaultdict(float)
    for counter in counters:
        rise = counter.rise(t0, t1)
        if rise is None:
            return None
        risen[counter.track, counter.metric] += rise
    stable, canary = (
        ArmCounts(*(round(risen[track, metric]) for metric in ("requests", "errors", "slow")))
        for track in (beside, Track.CANARY)
    )
    return stable, canary


def _missing(answers: Mapping[str, Series]) -> str:
    """What `errors` or `slow` lacks where `requests` has points, "" for nothing: absent is not "none was bad"."""
    wanted = _times_less_code(answers["requests"])
    for metric in ("errors", "slow"):
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
