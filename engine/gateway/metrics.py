"""The worker's Prometheus page: the same totals the snapshots are made of, under DESIGN §8's names."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from engine.gateway.access.metrics import access_metrics
from engine.gateway.counts import Histogram, Row, TotalKey
from engine.gateway.front import Front
from engine.gateway.routing.metrics import routing_metrics
from state.words import BadClass

_BY = ("service", "env", "release", "track")


class GatewayCollector(Collector):
    """Reads the worker's counters when it is asked. `dropped` says how many ledger and count lines were lost."""

    def __init__(self, front: Front, dropped: Callable[[], int]) -> None:
        self._front = front
        self._dropped = dropped

    def collect(self) -> Iterator[Metric]:
        """Every metric of the gateway."""
        rows = self._front.proxy.recorder.counts.totals
        yield from of_totals(rows)
        yield from self._gateway()
        yield from access_metrics(self._front.desk, self._front.table)
        yield CounterMetricFamily(
            "airboss_quality_dropped",
            "Answers of the quality sample that were not checked: no room, or no text to read.",
            value=self._front.proxy.sampler.dropped,
        )

    def _gateway(self) -> Iterator[Metric]:
        proxy, table = self._front.proxy, self._front.table
        rejected = CounterMetricFamily("airboss_rejected", "Requests this gateway refused itself.", labels=("reason",))
        for reason, number in proxy.recorder.rejections.items():
            rejected.add_metric((reason,), number)
        yield rejected
        probes = CounterMetricFamily(
            "airboss_probes", "The engine's own probes, by class of outcome.", labels=("code",)
        )
        for outcome, number in proxy.recorder.probes.items():
            probes.add_metric((outcome.value,), number)
        yield probes
        feedback = CounterMetricFamily("airboss_feedback", "Users' word on answers.", labels=("kind", "value"))
        for (kind, value), number in self._front.feedback.counts.items():
            feedback.add_metric((kind, value), number)
        yield feedback
        yield GaugeMetricFamily("airboss_inflight_requests", "Requests admitted and not ended.", value=proxy.inflight)
        revision = table.revision if table else 0
        yield GaugeMetricFamily(
            "airboss_table_revision", "The routing table this worker serves, 0 for none.", value=revision
        )
        healthy = GaugeMetricFamily(
            "airboss_replica_healthy", "1 when the replica takes requests.", labels=(*_BY, "replica")
        )
        for route in table.routes if table else ():
            for backend in route.backends:
                for spawn_id, _ in backend.replicas:
                    labels = (route.service, route.env, backend.release_id, backend.track, spawn_id)
                    healthy.add_metric(labels, spawn_id in proxy.pool.healthy)
        yield healthy
        weights = GaugeMetricFamily("airboss_track_weight", "Percent of new requests the table gives.", labels=_BY)
        for route in table.routes if table else ():
            for backend in route.backends:
                weights.add_metric((route.service, route.env, backend.release_id, backend.track), backend.weight)
        yield weights
        yield from routing_metrics(proxy, table)
        yield CounterMetricFamily(
            "airboss_lines_dropped", "Ledger and count lines the disk did not take.", value=self._dropped()
        )


def of_totals(rows: dict[TotalKey, Row]) -> Iterator[Metric]:
    """What the counters hold, however they were filled."""
    yield from _requests(rows)
    yield _histogram(
        "airboss_request_duration_seconds", "Seconds from admission to the last byte.", rows, lambda r: r.latency
    )
    yield _histogram(
        "airboss_time_to_first_token_seconds", "Seconds from admission to the first byte.", rows, lambda r: r.ttft
    )


def _requests(rows: dict[TotalKey, Row]) -> Iterator[Metric]:
    requests = CounterMetricFamily("airboss_requests", "Requests by class of outcome.", labels=(*_BY, "code"))
    slow = CounterMetricFamily("airboss_slow_requests", "Requests that count, slower than the objective.", labels=_BY)
    failures = CounterMetricFamily("airboss_attempt_failures", "Attempts that another replica made good.", labels=_BY)
    busy = CounterMetricFamily("airboss_busy_seconds", "Replicas' time that requests took.", labels=_BY)
    tokens = CounterMetricFamily("airboss_tokens", "Tokens, as answers state them.", labels=(*_BY, "direction"))
    for key, row in rows.items():
        for outcome in BadClass:
            requests.add_metric((*key, outcome.value), row.codes[outcome])
        slow.add_metric(key, row.slow)
        failures.add_metric(key, row.attempt_failures)
        busy.add_metric(key, row.busy_s)
        tokens.add_metric((*key, "input"), row.tokens_in)
        tokens.add_metric((*key, "output"), row.tokens)
    return iter((requests, slow, failures, busy, tokens))


def _histogram(name: str, text: str, rows: dict[TotalKey, Row], of: Callable[[Row], Histogram]) -> Metric:
    family = HistogramMetricFamily(name, text, labels=_BY)
    for key, row in rows.items():
        histogram = of(row)
        buckets = [(bound, float(count)) for bound, count in histogram.cumulative().items()]
        family.add_metric(key, buckets, histogram.sum)
    return family


def render(collector: Collector) -> bytes:
    """The page in the text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return generate_latest(registry)
