"""`metric`: what a person and a program read of an answer in PromQL."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from console.commands.metric_tables import sparkline
from state.words import UsageError

NOW = 1_790_000_000.0
ANSWER = {"url": "http://p", "query": "up", "start": None, "end": NOW, "step_s": None, "warnings": []}
UP = {"labels": {"__name__": "up", "job": "gateway"}, "points": [[NOW, "1"]]}


def test_a_value_a_series_now_and_its_course_over_a_range(engine: Any, airboss: Callable[..., Any]) -> None:
    engine.answers["/v1/metric"] = lambda query: {**ANSWER, "series": [UP]} if query == {"query": "up"} else None
    said = airboss("metric", "up")
    assert said.code == 0, said.err
    assert said.out.splitlines()[1].split() == ['up{job="gateway"}', "1"]

    course = {"labels": {"track": "canary"}, "points": [[NOW - 60, "0"], [NOW - 30, "NaN"], [NOW, "0.5"]]}
    wanted = {"query": "errors", "service": "chat", "range_s": "3600.0", "step_s": "30.0"}
    engine.answers["/v1/metric"] = lambda query: (
        {**ANSWER, "start": NOW - 3600, "step_s": 30.0, "series": [course], "warnings": ["a store is away"]}
        if query == wanted
        else None
    )
    words = ("metric", "errors", "--service", "chat", "--range", "1h", "--step", "30s")
    said = airboss(*words)
    assert said.code == 0, said.err
    assert said.out.splitlines()[1].split() == ['{track="canary"}', "0.5", "0", "0.5", "▁", "█"]
    assert "Prometheus warns: a store is away" in said.err
    (item,) = airboss(*words, "-o", "json").json["items"]
    assert item["labels"] == {"track": "canary"}
    assert [point["value"] for point in item["points"]] == [0, "NaN", 0.5]
    assert airboss(*words, "-o", "name").out == '{track="canary"}\n'


def test_what_prometheus_says_of_a_wrong_query_is_the_error(engine: Any, airboss: Callable[..., Any]) -> None:
    def refuse(query: dict[str, str]) -> Any:
        raise UsageError("Prometheus answered 400: 1:6: parse error: unexpected end of input", hint="asked: rate(")

    engine.answers["/v1/metric"] = refuse
    said = airboss("metric", "rate(")
    assert said.code == 2
    assert "parse error: unexpected end of input" in said.err


def test_more_series_than_asked_for_are_said_and_none_is_no_error(engine: Any, airboss: Callable[..., Any]) -> None:
    engine.answers["/v1/metric"] = {**ANSWER, "series": [UP] * 3}
    said = airboss("metric", "up", "--limit", "2")
    assert len(said.out.splitlines()) == 3
    assert "1 more series: --limit 3" in said.err
    engine.answers["/v1/metric"] = {**ANSWER, "series": []}
    said = airboss("metric", "up")
    assert (said.code, said.out) == (0, "no series\n")


def test_a_course_is_drawn_between_its_least_and_its_most() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([5, 5], 8) == "▁▁"
    assert sparkline([math.nan, 1, 2], 8) == " ▁█"
    assert len(sparkline([float(n) for n in range(1000)], 40)) == 40
    assert sparkline([math.nan], 8) == ""


PROFILES = [
    {"service": "chat", "env": "production", "profile": "istio", "level": "warn", "is_live": True, "tracks": [],
     "says": "istio_requests_total is there, without reporter: it has job", "trouble": "x", "is_idle": False,
     "metrics": [{"metric": "istio_requests_total", "labels": ["job"], "trouble": "x", "tracks": [], "is_idle": False}]},
    {"service": "plain", "env": "production", "profile": "vllm", "level": "ok", "is_live": True, "tracks": ["stable"],
     "says": "stable counted", "trouble": "", "is_idle": False,
     "metrics": [{"metric": "http_requests_total", "labels": ["job", "service"], "trouble": "", "tracks": ["stable"], "is_idle": False}]},
]  # fmt: skip


def test_doctor_and_status_say_whether_the_metrics_are_there(
    engine: Any, airboss: Callable[..., Any], workspace: Any
) -> None:
    toml = workspace.root / "airboss.toml"
    toml.write_text(toml.read_text() + '\n[metrics]\nurl = "http://127.0.0.1:9"\n')
    engine.answers["/v1/metric/profiles"] = PROFILES
    checks = [item for item in airboss("doctor", "-o", "json").json["items"] if item["name"] == "metrics"]
    assert [(check["level"], check["found"]) for check in checks] == [
        ("warn", "chat in production by istio: istio_requests_total is there, without reporter: it has job"),
        ("ok", "plain in production by vllm: stable counted; http_requests_total{job,service}"),
    ]
    engine.answers["/v1/status"] = {**engine.answers["/v1/status"], "profiles": PROFILES}
    said = airboss("status")
    assert "chat in production by istio: istio_requests_total is there, without reporter" in said.out
