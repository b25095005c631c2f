"""Istio's standard metrics, as the proxy that sends reports them. A track is its Service: `SERVICE-stable`, `-canary`, `-baseline`.

Source: istio.io, Reference, "Istio Standard Metrics": `reporter`, `destination_service_name`, `destination_service_namespace`,
`response_code` (0 where there was none), `response_flags`; durations in milliseconds, in Envoy's buckets.
A client that hung up (flag DC) is not counted; a code 0 with another flag is the server's. A waypoint reports as
`reporter="waypoint"`, a mesh whose callers have no proxy as `"destination"`: `labels = { reporter = … }`.
"""

from __future__ import annotations

from adapters.profiles.profile import Counter, Histogram, Match, Profile

_COUNTED = Match("response_code", "!~", "{clients_own}")
_PROXY = "a proxy sees requests, not what a model does with them"

PROFILE = Profile(
    name="istio",
    title="Istio (sidecars, waypoints, ingress gateway)",
    source="istio.io/latest/docs/reference/config/metrics",
    where=(
        Match("reporter", "=", "source"),
        Match("destination_service_namespace", "=", "{namespace}"),
        Match("response_flags", "!~", "(.*,)?DC(,.*)?"),
    ),
    track_label="destination_service_name",
    requests=(Counter("istio_requests_total", (_COUNTED,)),),
    errors=(Counter("istio_requests_total", (Match("response_code", "=~", "{bad}|0"),)),),
    slow=Histogram("istio_request_duration_milliseconds", 0.001, (_COUNTED,)),
    lacks={
        "errors": "a request that no route took, or whose caller has no proxy, is nobody's",
        "tokens": _PROXY,
        "queue": _PROXY,
        "gpu": _PROXY,
    },
)
