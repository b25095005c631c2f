"""OpenTelemetry's HTTP server metric, as Prometheus names it. A track is the resource: `service.name = SERVICE-stable`, …, with
`service.namespace` the environment's; the two are the label `job`, and `service.instance.id` is `instance`.

Sources: opentelemetry.io, Semantic conventions for HTTP metrics: `http.server.request.duration` (seconds), `http.response.status_code` if
one was sent, `error.type` if it ended with an error; advised bounds 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5,
10. OpenTelemetry's compatibility with Prometheus: `job` is `service.namespace/service.name` (collector-contrib issue 8355).
What is pushed has no sign of its end: a silent exporter looks idle for five minutes, which is no pass either.
"""

from __future__ import annotations

from adapters.profiles.profile import Counter, Histogram, Match, Profile

_COUNT = "http_server_request_duration_seconds_count"
_COUNTED = Match("http_response_status_code", "!~", "{clients_own}")

PROFILE = Profile(
    name="opentelemetry",
    title="OpenTelemetry HTTP servers (semantic conventions 1.23 on)",
    source="opentelemetry.io/docs/specs/semconv/http/http-metrics",
    track_label="job",
    tracks={track: f"{{namespace}}/{{service}}-{track}" for track in ("stable", "canary", "baseline")},
    requests=(Counter(_COUNT, (_COUNTED,)),),
    errors=(
        Counter(_COUNT, (Match("http_response_status_code", "=~", "{bad}"),)),
        Counter(_COUNT, (Match("http_response_status_code", "=", ""), Match("error_type", "!=", ""))),
    ),
    slow=Histogram("http_server_request_duration_seconds", 1.0, (_COUNTED,)),
    more={"queue": "sum by ($track) (http_server_active_requests{$where})"},
    lacks={
        "errors": "what the router could not deliver is not counted; a client that hung up is an error where error_type says so",
        "tokens": "gen_ai.* metrics are not stable yet; where there are some, ask by PromQL",
        "gpu": "not a matter of HTTP",
    },
)
