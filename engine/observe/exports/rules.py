"""Prometheus recording and alerting rules of a workspace's services: the engine's own arithmetic in PromQL. Pure.

The same events (words.COUNTS_AND_BAD), the same windows, factors and volume guard (engine.observe.burn) as the engine's
burn rates, so that either may be the one that evaluates. What PromQL cannot say is not in them: the prober's lost requests.
"""

from __future__ import annotations

from typing import Any

from engine.observe.burn import MIN_EVENTS, RULES, WINDOWS, BurnRule, window_name
from state.config import Config, Slo
from state.words import COUNTS_AND_BAD, BadClass

COUNTED = "|".join(c.value for c in BadClass if COUNTS_AND_BAD[c][0])
BAD = "|".join(c.value for c in BadClass if COUNTS_AND_BAD[c] == (True, True))
JOB = "airboss-gateway"
INTERVAL = "15s"
_TRACK = "service, env, track, release"
_SERVICE = "service, env"


def rule_file(config: Config) -> dict[str, Any]:
    """The rule file's groups: what is recorded for every service, and each service's objectives."""
    objectives = [
        _slo_group(service, env, settings.slo)
        for service, settings in config.service.items()
        for env in config.environment
    ]
    return {"groups": [_tracks(), _ratios(), *objectives, _health()]}


def _tracks() -> dict[str, Any]:
    requests = f'sum by ({_TRACK}) (rate(airboss_requests_total{{code=~"{COUNTED}"}}[5m]))'
    quantile = "histogram_quantile({q}, sum by ({by}, le) (rate({metric}_bucket[5m])))"
    rules = [
        _record("track:airboss_requests:rate5m", requests),
        _record("track:airboss_error_ratio:rate5m", _ratio(BAD, "5m", _TRACK)),
        _record("track:airboss_slow_ratio:rate5m", _slow("5m", _TRACK)),
        _record(
            "track:airboss_output_tokens:rate5m",
            f'sum by ({_TRACK}) (rate(airboss_tokens_total{{direction="output"}}[5m]))',
        ),
    ]
    for q in ("0.5", "0.95", "0.99"):
        for metric, name in (
            ("airboss_request_duration_seconds", "latency"),
            ("airboss_time_to_first_token_seconds", "ttft"),
        ):
            rules.append(
                _record(
                    f"track:airboss_{name}_seconds:p{q[2:].ljust(2, '0')}_5m",
                    quantile.format(q=q, by=_TRACK, metric=metric),
                )
            )
    return {"name": "airboss-tracks", "interval": INTERVAL, "rules": rules}


def _ratios() -> dict[str, Any]:
    rules = []
    for window in WINDOWS:
        name = window_name(window)
        rules.append(_record(f"service:slo_errors:ratio_rate{name}", _ratio(BAD, name, _SERVICE)))
        rules.append(_record(f"service:slo_slow:ratio_rate{name}", _slow(name, _SERVICE)))
    return {"name": "airboss-ratios", "interval": INTERVAL, "rules": rules}


def _slo_group(service: str, env: str, slo: Slo) -> dict[str, Any]:
    where = f'{{service="{service}",env="{env}"}}'
    days = f"{slo.window_d:g}d" if float(slo.window_d).is_integer() else f"{slo.window_d * 24:g}h"
    bad = f'sum(increase(airboss_requests_total{{service="{service}",env="{env}",code=~"{BAD}"}}[{days}]))'
    all_ = f'sum(increase(airboss_requests_total{{service="{service}",env="{env}",code=~"{COUNTED}"}}[{days}]))'
    slow = f"sum(increase(airboss_slow_requests_total{where}[{days}]))"
    own = {"service": service, "env": env}
    rules: list[dict[str, Any]] = [
        _record(
            "service:slo_errors:budget_left",
            f"1 - (({bad} or vector(0)) / ({all_} > 0)) / {slo.error_limit:.10g}",
            {**own, "window": days},
        ),
        _record(
            "service:slo_slow:budget_left",
            f"1 - (({slow} or vector(0)) / ({all_} > 0)) / {slo.slow_limit:.10g}",
            {**own, "window": days},
        ),
    ]
    for alert, ratio, limit, objective in (
        ("ErrorBudgetBurn", "service:slo_errors:ratio_rate", slo.error_limit, "availability"),
        ("LatencyBudgetBurn", "service:slo_slow:ratio_rate", slo.slow_limit, "latency"),
    ):
        for severity in dict.fromkeys(rule.severity for rule in RULES):
            ours = [rule for rule in RULES if rule.severity is severity]
            rules.append(
                {
                    "alert": alert,
                    "expr": " or ".join(_burns(rule, ratio, limit, where) for rule in ours),
                    "labels": {"severity": severity.value, "slo": objective, **own},
                    "annotations": {
                        "summary": f"{service} in {env} burns its {objective} budget too fast "
                        f"({' or '.join(rule.label for rule in ours)}): roll back what changed last, or find what fails",
                        "runbook": f"airboss rollback {service} --env {env} --dry-run",
                    },
                }
            )
    return {"name": f"airboss-slo-{service}-{env}", "interval": INTERVAL, "rules": rules}


def _burns(rule: BurnRule, ratio: str, limit: float, where: str) -> str:
    """Above the factor in both windows, over enough requests in the long one to wake anybody."""
    short, long = window_name(rule.short_s), window_name(rule.long_s)
    above = f"{rule.factor * limit:.10g}"
    matching = where[:-1] + f',code=~"{COUNTED}"' + "}"
    enough = f"sum by ({_SERVICE}) (increase(airboss_requests_total{matching}[{long}])) >= {MIN_EVENTS}"
    return f"({ratio}{short}{where} > {above} and {ratio}{long}{where} > {above} and {enough})"


def _health() -> dict[str, Any]:
    canary = 'airboss_track_weight{track="canary"}'
    share = (
        'sum by (service, env, release) (rate(airboss_requests_total{track="canary"}[5m])) '
        "/ on (service, env) group_left () (sum by (service, env) "
        '(rate(airboss_requests_total{track=~"stable|canary|baseline"}[5m])) > 1)'
    )
    weight = f"max by (service, env, release) ({canary})"
    rules = [
        _alert("AirbossGatewayDown", f'up{{job="{JOB}"}} == 0', "1m", "page",
               "gateway worker {{ $labels.instance }} is not scraped: see `airboss status` on its host"),
        _alert("AirbossMetricsMissing", "absent_over_time(airboss_table_revision[10m])", "0m", "page",
               "no gateway has been scraped for ten minutes: nothing here can see an outage"),
        _alert("CanaryNoTraffic",
               f"{weight} > 0 unless on (service, env, release) (sum by (service, env, release) "
               '(rate(airboss_requests_total{track="canary"}[5m])) > 0)', "3m", "ticket",
               "{{ $labels.release }} of {{ $labels.service }} should get traffic and gets none: are its replicas healthy?"),
        _alert("WeightMismatch", f"abs({share} - {weight} / 100) > 0.03", "5m", "ticket",
               "{{ $labels.release }} of {{ $labels.service }} gets another share of requests than its weight"),
        _alert("ReplicaUnhealthy", "min by (service, env, release, replica) (airboss_replica_healthy) == 0", "5m", "ticket",
               "replica {{ $labels.replica }} of {{ $labels.service }} takes no requests"),
    ]  # fmt: skip
    return {"name": "airboss-health", "interval": INTERVAL, "rules": rules}


def _ratio(codes: str, window: str, by: str) -> str:
    """Bad ÷ counted; no requests is no answer, and no bad one is 0, not nothing."""
    all_ = f'sum by ({by}) (rate(airboss_requests_total{{code=~"{COUNTED}"}}[{window}]))'
    bad = f'sum by ({by}) (rate(airboss_requests_total{{code=~"{codes}"}}[{window}]))'
    return f"({bad} or 0 * {all_}) / ({all_} > 0)"


def _slow(window: str, by: str) -> str:
    all_ = f'sum by ({by}) (rate(airboss_requests_total{{code=~"{COUNTED}"}}[{window}]))'
    slow = f"sum by ({by}) (rate(airboss_slow_requests_total[{window}]))"
    return f"({slow} or 0 * {all_}) / ({all_} > 0)"


def _record(name: str, expr: str, labels: dict[str, str] | None = None) -> dict[str, Any]:
    return {"record": name, "expr": expr, **({"labels": labels} if labels else {})}


def _alert(name: str, expr: str, for_: str, severity: str, summary: str) -> dict[str, Any]:
    return {
        "alert": name,
        "expr": expr,
        "for": for_,
        "labels": {"severity": severity},
        "annotations": {"summary": summary},
    }
