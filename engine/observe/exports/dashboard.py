"""A Grafana dashboard over the recorded series: what the console shows, for a wall. Pure."""

from __future__ import annotations

from typing import Any

SCHEMA_VERSION = 39
"""Grafana 10 and newer read it; older ones upgrade it on import or say that they cannot."""
_HERE = '{service=~"$service",env=~"$env"}'
_BY_TRACK = "{{service}} {{track}} {{release}}"

PANELS: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    (
        "Requests per second",
        "reqps",
        ((f"sum by (service, track, release) (track:airboss_requests:rate5m{_HERE})", _BY_TRACK),),
    ),
    ("Bad share", "percentunit", ((f"track:airboss_error_ratio:rate5m{_HERE}", _BY_TRACK),)),
    ("Slow share", "percentunit", ((f"track:airboss_slow_ratio:rate5m{_HERE}", _BY_TRACK),)),
    (
        "Latency",
        "s",
        tuple((f"track:airboss_latency_seconds:p{q}_5m{_HERE}", f"p{q} {_BY_TRACK}") for q in (50, 95, 99)),
    ),
    (
        "Time to first token",
        "s",
        tuple((f"track:airboss_ttft_seconds:p{q}_5m{_HERE}", f"p{q} {_BY_TRACK}") for q in (50, 95)),
    ),
    ("Output tokens per second", "short", ((f"track:airboss_output_tokens:rate5m{_HERE}", _BY_TRACK),)),
    (
        "Error budget left",
        "percentunit",
        (
            (f"service:slo_errors:budget_left{_HERE}", "availability {{service}} {{env}}"),
            (f"service:slo_slow:budget_left{_HERE}", "latency {{service}} {{env}}"),
        ),
    ),
    (
        "Bad share by window",
        "percentunit",
        tuple(
            (f"service:slo_errors:ratio_rate{w}{_HERE}", f"{w} {{{{service}}}} {{{{env}}}}")
            for w in ("5m", "1h", "6h", "3d")
        ),
    ),
    ("Weight", "percent", ((f"max by (service, env, track, release) (airboss_track_weight{_HERE})", _BY_TRACK),)),
    ("In flight", "short", (("sum by (instance) (airboss_inflight_requests)", "{{instance}}"),)),
    ("Refused by the gateway", "reqps", (("sum by (reason) (rate(airboss_rejected_total[5m]))", "{{reason}}"),)),
    (
        "Replicas that take requests",
        "short",
        (
            (
                f"sum by (service, track, release) (max by (service, track, release, replica) (airboss_replica_healthy{_HERE}))",
                _BY_TRACK,
            ),
        ),
    ),
)
"""Title, unit, and (expression, legend) of each line."""


def dashboard(title: str) -> dict[str, Any]:
    """The dashboard, to be imported as it is; it asks for the data source, service and environment at the top."""
    return {
        "title": title,
        "uid": "airboss-services",
        "tags": ["airboss"],
        "schemaVersion": SCHEMA_VERSION,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "source", "type": "datasource", "query": "prometheus", "label": "Source"},
                _variable("service", "label_values(airboss_requests_total, service)"),
                _variable("env", 'label_values(airboss_requests_total{service=~"$service"}, env)'),
            ]
        },
        "panels": [_panel(number, *panel) for number, panel in enumerate(PANELS)],
    }


def _variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name, "type": "query", "label": name.capitalize(), "query": query, "refresh": 2, "multi": True,
        "includeAll": True, "current": {"text": "All", "value": "$__all"},
        "datasource": {"type": "prometheus", "uid": "${source}"},
    }  # fmt: skip


def _panel(number: int, title: str, unit: str, lines: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    return {
        "id": number + 1,
        "title": title,
        "type": "timeseries",
        "datasource": {"type": "prometheus", "uid": "${source}"},
        "gridPos": {"h": 8, "w": 8, "x": 8 * (number % 3), "y": 8 * (number // 3)},
        "fieldConfig": {"defaults": {"unit": unit, "min": None if unit == "percentunit" else 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + at), "expr": expr, "legendFormat": legend}
            for at, (expr, legend) in enumerate(lines)
        ],
    }
