"""The front desk's metrics: how often answers were given again, and what checks said. All label sets stand from the start."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric

from engine.gateway.access.cache import RESULTS
from engine.gateway.access.desk import Desk
from engine.gateway.access.safety.review import VERDICTS, CheckKey
from engine.gateway.quality import sampler
from engine.gateway.table import RoutingTable


def access_metrics(desk: Desk, table: RoutingTable | None) -> Iterator[Metric]:
    """`airboss_cache_requests_total` and `airboss_quality_checks_total`."""
    routes = [route for route in (table.routes if table else ()) if route.access is not None]
    cached = {(r.service, r.env, result): 0 for r in routes if r.access and r.access.cache for result in RESULTS}
    cache = CounterMetricFamily(
        "airboss_cache_requests", "Requests of services that have a cache.", labels=("service", "env", "result")
    )
    for labels, number in {**cached, **desk.cache.counts}.items():
        cache.add_metric(labels, number)
    yield cache
    known = {
        CheckKey(route.service, route.env, backend.release_id, backend.track, rule.name, verdict): 0
        for route in routes
        if route.access and route.access.safety
        for backend in route.backends
        for rule in route.access.safety.rules
        for verdict in VERDICTS
    }
    known.update(
        {
            CheckKey(route.service, route.env, backend.release_id, backend.track, check.name, verdict): 0
            for route in (table.routes if table else ())
            if route.measures and route.measures.quality
            for backend in route.backends
            for check in route.measures.quality.checks
            for verdict in sampler.VERDICTS
        }
    )
    checks = CounterMetricFamily(
        "airboss_quality_checks", "What checks of prompts and answers said.", labels=CheckKey._fields
    )
    for key, number in {**known, **desk.checks.totals}.items():
        checks.add_metric(key, number)
    yield checks
