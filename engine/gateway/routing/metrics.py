"""What routing counts, for the worker's Prometheus page. Every label set is there from the start, at zero."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from engine.gateway.proxy import Proxy
from engine.gateway.routing.traffic import FALLBACK_REASONS
from engine.gateway.table import RoutingTable


def routing_metrics(proxy: Proxy, table: RoutingTable | None) -> Iterator[Metric]:
    """Fallbacks, circuits, retries refused, answers cut short, copies to shadows, and how full each route is."""
    traffic, breakers = proxy.traffic, proxy.pool.breakers
    routes = table.routes if table else ()
    fallbacks = CounterMetricFamily(
        "airboss_fallback",
        "Requests that another service answered, by why the first could not.",
        labels=("service", "to", "reason"),
    )
    known = {
        (route.service, to, reason): 0
        for route in routes
        if route.routing is not None
        for to in route.routing.choose.fallback
        for reason in FALLBACK_REASONS
    }
    for key, number in {**known, **traffic.fallbacks}.items():
        fallbacks.add_metric(key, number)
    yield fallbacks
    opened = CounterMetricFamily("airboss_circuit_opened", "Circuits of replicas that opened.", labels=("cause",))
    for cause, number in breakers.opened.items():
        opened.add_metric((str(cause),), number)
    yield opened
    is_open = GaugeMetricFamily(
        "airboss_circuit_open",
        "1 while a replica's circuit is open.",
        labels=("service", "env", "release", "track", "replica"),
    )
    for route in routes:
        for backend in route.backends:
            for spawn_id, _ in backend.replicas:
                labels = (route.service, route.env, backend.release_id, backend.track, spawn_id)
                is_open.add_metric(labels, breakers.is_open(spawn_id))
    yield is_open
    yield CounterMetricFamily(
        "airboss_retries_refused", "Retries that a route's budget did not allow.", value=traffic.retries_refused
    )
    yield CounterMetricFamily(
        "airboss_capped_requests", "Requests whose max_tokens a load stage cut.", value=traffic.capped
    )
    mirrored = CounterMetricFamily("airboss_mirror", "Copies shown to shadows, by result.", labels=("result",))
    for result, number in proxy.mirrors.results.items():
        mirrored.add_metric((result,), number)
    yield mirrored
    inflight = GaugeMetricFamily(
        "airboss_route_inflight_requests", "Requests under way on a route.", labels=("service", "env")
    )
    for route in routes:
        inflight.add_metric((route.service, route.env), traffic.inflight(route))
    yield inflight
