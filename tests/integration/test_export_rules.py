"""The exported rules: checked and played by promtool, and the same arithmetic as the engine's own burn rates."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.observe.burn import MIN_EVENTS, RULES, Burn, burning
from engine.observe.exports.__main__ import files
from engine.observe.exports.dashboard import PANELS, dashboard
from state.config import Config, parse_config
from tests.monitoring_servers import needs_prometheus

CONFIG = """
[service.chat]
slo = { availability = 99.9, latency_p95_ms = 800, latency_share = 95, window_d = 28 }
[environment.production]
targets = [{ runtime = "local" }]
[gateway]
metrics_listen = "127.0.0.1:9464"
workers = 3
"""


@pytest.fixture
def config() -> Config:
    return parse_config(CONFIG, Path("airboss.toml"))


@pytest.fixture
def place(config: Config, tmp_path: Path) -> Path:
    for name, text in files(config, "ws").items():
        (tmp_path / name).write_text(text)
    return tmp_path


def promtool(*words: str, cwd: Path) -> str:
    ran = subprocess.run(["promtool", *words], cwd=cwd, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def series(code: str, per_minute: int, minutes: int, track: str = "stable", worker: str = "9464") -> dict[str, str]:
    labels = (
        f'service="chat",env="production",release="r-1",track="{track}",instance="h:{worker}",job="airboss-gateway"'
    )
    return {"series": f'airboss_requests_total{{{labels},code="{code}"}}', "values": f"0+{per_minute}x{minutes}"}


def played(place: Path, name: str, inputs: list[dict[str, str]], at: str, alerts: dict[str, list[str]]) -> None:
    """promtool's unit test: which severities of each alert fire `at` that time."""
    body = {
        "rule_files": ["airboss.rules.yml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "name": name,
                "interval": "1m",
                "input_series": inputs,
                "promql_expr_test": [
                    {
                        "expr": f'count by (severity) (ALERTS{{alertname="{alert}",alertstate="firing"}})',
                        "eval_time": at,
                        "exp_samples": [{"labels": f'{{severity="{one}"}}', "value": 1} for one in severities],
                    }
                    for alert, severities in alerts.items()
                ],
            }
        ],
    }
    (place / "test.yml").write_text(yaml.safe_dump(body))
    promtool("test", "rules", "test.yml", cwd=place)


@needs_prometheus
def test_promtool_finds_nothing_wrong(place: Path) -> None:
    assert "SUCCESS" in promtool("check", "rules", "airboss.rules.yml", cwd=place)
    promtool("check", "config", "--syntax-only", "airboss.scrape.yml", cwd=place)


@needs_prometheus
def test_a_fast_burn_pages_and_a_slow_one_opens_a_ticket(place: Path) -> None:
    # 2 % of requests fail, 20 times what 99.9 % allows: 14.4 is passed in five minutes and in the hour.
    fast = [series("ok", 980, 120), series("5xx", 20, 120)]
    played(place, "fast", fast, "90m", {"ErrorBudgetBurn": ["page", "ticket"], "LatencyBudgetBurn": []})
    # 0.2 %: twice too fast, which is a ticket (1x over 6 h and 3 d) and no page.
    slow = [series("ok", 998, 130), series("5xx", 2, 130)]
    played(place, "slow", slow, "2h", {"ErrorBudgetBurn": ["ticket"]})


@needs_prometheus
@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("none was bad, and no bad series exists", [series("ok", 1000, 120)]),
        (
            "a client's own faults do not count",
            [series("ok", 900, 120), series("4xx", 300, 120), series("quota", 300, 120)],
        ),
        ("too few requests to wake anybody", [series("ok", 0, 120), series("5xx", 1, 120)]),
        ("no request at all", [series("ok", 0, 120), series("5xx", 0, 120)]),
    ],
)
def test_what_is_no_burn_fires_nothing(place: Path, name: str, inputs: list[dict[str, str]]) -> None:
    played(place, name, inputs, "100m", {"ErrorBudgetBurn": []})


@needs_prometheus
def test_a_canary_without_traffic_a_wrong_share_and_a_dead_worker_are_told(place: Path) -> None:
    labels = 'service="chat",env="production",release="r-2",track="canary",instance="h:9464",job="airboss-gateway"'
    weight = {"series": f"airboss_track_weight{{{labels}}}", "values": "25x60"}
    idle = [
        series("ok", 100, 60),
        {"series": f'airboss_requests_total{{{labels},code="ok"}}', "values": "0x60"},
        weight,
    ]
    played(place, "idle", idle, "30m", {"CanaryNoTraffic": ["ticket"]})
    half = [
        series("ok", 1000, 60),
        {"series": f'airboss_requests_total{{{labels},code="ok"}}', "values": "0+1000x60"},
        weight,
    ]
    played(place, "half", half, "30m", {"WeightMismatch": ["ticket"], "CanaryNoTraffic": []})
    right = [
        series("ok", 750, 60),
        {"series": f'airboss_requests_total{{{labels},code="ok"}}', "values": "0+250x60"},
        weight,
    ]
    played(place, "right", right, "30m", {"WeightMismatch": [], "CanaryNoTraffic": []})
    up = [
        {"series": 'up{job="airboss-gateway",instance="h:9464"}', "values": "1x5 0x20"},
        {"series": 'airboss_table_revision{job="airboss-gateway"}', "values": "3x5 stale"},
    ]
    played(place, "dead", up, "20m", {"AirbossGatewayDown": ["page"], "AirbossMetricsMissing": ["page"]})


def test_the_rules_and_the_engine_have_the_same_factors_windows_and_guard(config: Config) -> None:
    """Where the engine's own arithmetic fires, the exported expression has that very threshold."""
    limit = 0.001
    text = files(config, "ws")["airboss.rules.yml"]
    for rule in RULES:
        assert f"> {rule.factor * limit:.10g}" in text
        burns = {
            s: Burn(s, s, rule.factor + 0.1 if s in (rule.short_s, rule.long_s) else 0.0, MIN_EVENTS)
            for s in {w for one in RULES for w in (one.short_s, one.long_s)}
        }
        assert rule in burning(burns)
    assert text.count(f">= {MIN_EVENTS}") == 2 * len(RULES)


def test_each_worker_is_a_target_and_a_port_that_is_not_open_is_said(config: Config) -> None:
    scrape = yaml.safe_load(files(config, "ws")["airboss.scrape.yml"])
    targets = scrape["scrape_configs"][0]["static_configs"][0]["targets"]
    assert targets == ["127.0.0.1:9464", "127.0.0.1:9465", "127.0.0.1:9466"]
    closed = parse_config("[gateway]\nworkers = 1\n", Path("airboss.toml"))
    assert files(closed, "ws")["airboss.scrape.yml"].startswith("# [gateway] metrics_listen")


def test_the_dashboard_draws_recorded_series_and_nothing_unknown(config: Config) -> None:
    body: dict[str, Any] = json.loads(files(config, "ws")["airboss.dashboard.json"])
    assert body == json.loads(json.dumps(dashboard("Airboss: ws")))
    recorded = {
        r["record"]
        for g in yaml.safe_load(files(config, "ws")["airboss.rules.yml"])["groups"]
        for r in g["rules"]
        if "record" in r
    }
    used = {
        word
        for _, _, lines in PANELS
        for expr, _ in lines
        for word in expr.replace("(", " ").replace("{", " ").split()
        if ":" in word
    }
    assert used <= recorded
    places = [tuple(panel["gridPos"].values()) for panel in body["panels"]]
    assert len(set(places)) == len(PANELS)
