"""The judge's three counters out of Istio's standard metrics, by proxy and track.

Source: istio.io, Istio Standard Metrics (`reporter`, `destination_service_name`, `response_code`, `response_flags`;
durations in milliseconds). A track is its Service: `SERVICE-stable`, `SERVICE-canary`, `SERVICE-baseline`.
"""

from __future__ import annotations

from collections.abc import Mapping

_UNCOUNTED = "4.."
_BAD = "5..|0"


def istio_queries(service: str, namespace: str, slow_ms: int) -> Mapping[str, str]:
    """PromQL for `requests`, `errors` and `slow`. `slow_ms` must be a bound of Istio's buckets, else `slow` is empty.

    A series of one response code is born at its first response, and what a counter held at birth is no difference: so
    codes are added up before anything is differenced, and a proxy without an error has errors at zero. A client that
    hung up (code 0, flag DC) is not counted; a code 0 with another flag is the server's.
    """
    where = (
        f'reporter="source",destination_service_namespace="{namespace}",'
        f'destination_service_name=~"{service}-(stable|canary|baseline)",response_flags!="DC"'
    )
    counted = f'{where},response_code!~"{_UNCOUNTED}"'
    requests = _by_track(f"istio_requests_total{{{counted}}}")
    bad = _by_track(f'istio_requests_total{{{where},response_code=~"{_BAD}"}}')
    took = "istio_request_duration_milliseconds"
    # Prometheus 3 writes a bound as 500.0, 2 as the proxy did.
    quick = _by_track(f'{took}_bucket{{{counted},le=~"{slow_ms}([.]0)?"}}')
    return {
        "requests": requests,
        "errors": f"{bad} or 0 * {requests}",
        "slow": f"{_by_track(f'{took}_count{{{counted}}}')} - {quick}",
    }


def _by_track(selector: str) -> str:
    named = f'label_replace({selector}, "track", "$1", "destination_service_name", ".*-(stable|canary|baseline)")'
    return f"sum by (instance, track) ({named})"
