"""`airboss metric` against a real Prometheus: PromQL, words of a profile, and its own words for what is wrong."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from engine.metric_queries import MetricQueries
from engine.metrics_source import prometheus_of
from state.config import parse_config
from state.words import Unreachable, UsageError
from tests.exposition import Page, scraped
from tests.monitoring_servers import needs_prometheus
from tests.rollout_room import CONFIG

TABLES = """
[metrics]
url = "{url}"
step = "1s"
profile = "istio"
labels = {{ destination_service_namespace = "prod" }}
"""


def queries(url: str, root: Path) -> MetricQueries:
    config = parse_config(CONFIG + TABLES.format(url=url), Path("airboss.toml"))
    return MetricQueries(config, prometheus_of(config, root))


@needs_prometheus
async def test_promql_and_words_are_answered_and_what_is_wrong_is_said_in_prometheus_words(tmp_path: Path) -> None:
    page = Page()
    labels = {"reporter": "source", "destination_service_namespace": "prod", "destination_service_name": "chat-stable",
              "response_flags": "-"}  # fmt: skip
    page.add("istio_requests_total", {**labels, "response_code": "200"}, 1000)
    page.add("istio_requests_total", {**labels, "response_code": "500"}, 100)
    page.add("istio_requests_total", {**labels, "destination_service_name": "other-stable", "response_code": "200"}, 9)
    async with scraped(tmp_path, page) as server:
        asks = queries(server.url, tmp_path)
        while not (up := await asks.ask("up", "", "", None, None)).series:
            await asyncio.sleep(0.2)
        assert up.start is None and [points[-1][1] for _, points in up.series] == ["1"]
        assert (await asks.ask("1/0", "", "", None, None)).series == [({}, [(pytest.approx(up.end, abs=30), "+Inf")])]

        counted = await asks.ask("sum(istio_requests_total{$where})", "chat", "", None, None)
        assert [points[-1][1] for _, points in counted.series] == ["1100"]
        for _ in range(3):
            page.add("istio_requests_total", {**labels, "response_code": "200"}, 30)
            page.add("istio_requests_total", {**labels, "response_code": "500"}, 10)
            await asyncio.sleep(1.1)
        while not (rate := await asks.ask("errors", "chat", "production", 10, 1)).series:
            await asyncio.sleep(0.2)
        ((track, points),) = rate.series
        assert (track, rate.step_s) == ({"track": "stable"}, 1)
        assert float(points[-1][1]) == pytest.approx(0.25, abs=0.02)

        for text, says in (("rate(", "Prometheus answered 400: .*parse error"), ("up[5m] + 1", "answered 400")):
            with pytest.raises(UsageError, match=says):
                await asks.ask(text, "", "", None, None)
        with pytest.raises(UsageError, match="11,000 points"):
            await asks.ask("up", "", "", 86400 * 30, 1)
        with pytest.raises(UsageError, match="profile istio has no gpu of chat: a proxy"):
            await asks.ask("gpu", "chat", "", None, None)
        with pytest.raises(UsageError, match="no service 'chta'"):
            await asks.ask("errors", "chta", "", None, None)
        server.stop()
        with pytest.raises(Unreachable, match=r"^http://127.0.0.1:\d+ does not answer: Connection refused$"):
            await asks.ask("up", "", "", None, None)


async def test_without_a_prometheus_there_is_nobody_to_ask(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no Prometheus to ask"):
        await MetricQueries(parse_config(CONFIG, Path("airboss.toml")), None).ask("up", "", "", None, None)
