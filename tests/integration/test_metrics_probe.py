"""Whether a profile's metrics are at a real Prometheus: what is missing is named, with what is there instead."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.metrics_probe import MetricsProbe
from engine.metrics_source import prometheus_of
from state.config import parse_config
from state.models import TrackState
from state.store import Store
from tests.exposition import Page, scraped
from tests.monitoring_servers import needs_prometheus
from tests.rollout_room import CONFIG

TABLES = """
[metrics]
url = "{url}"
step = "1s"
profile = "{profile}"
[service.chat.metrics]
{words}
"""
GOOD = {
    "reporter": "source", "destination_service_name": "chat-stable", "destination_service_namespace": "prod",
    "response_code": "200", "response_flags": "-",
}  # fmt: skip
BOUNDS = ("100", "250", "500", "1000")


def istio(page: Page, drop: str = "", **labels: str) -> None:
    """Both of Istio's metrics, with other labels, or without one."""
    named = {name: value for name, value in {**GOOD, **labels}.items() if name != drop}
    page.add("istio_requests_total", named, 5)
    page.observe("istio_request_duration_milliseconds", named, BOUNDS, 20, 5)


class Probing:
    """The engine's probe of a workspace in which chat is live."""

    def __init__(self, root: Path, url: str, profile: str, words: str, is_live: bool = True) -> None:
        config = parse_config(CONFIG + TABLES.format(url=url, profile=profile, words=words), Path("airboss.toml"))
        self.store = Store.open(root / f"{time.monotonic_ns()}.db")
        if is_live:
            self.store.write_now(
                lambda s: s.add(
                    TrackState(
                        service="chat",
                        env="production",
                        target="local",
                        track="stable",
                        release_id="a",
                        weight=100,
                        since=0,
                    )
                )
            )
        self.probe = MetricsProbe(config, prometheus_of(config, root), self.store)

    async def says(self, is_so: Callable[[dict[str, Any]], bool] = lambda one: True) -> dict[str, Any]:
        """What it says once it is so."""
        deadline = time.monotonic() + 30
        while True:
            (one,) = await self.probe.look()
            if is_so(one):
                self.store.close()
                return one
            assert time.monotonic() < deadline, one
            await asyncio.sleep(0.3)


WORDS = 'labels = { destination_service_namespace = "prod" }\nslow = "500ms"'


@needs_prometheus
@pytest.mark.parametrize(
    ("make", "words", "level", "says"),
    [
        (istio, WORDS, "ok", "stable counted"),
        (lambda page: istio(page, drop="reporter"), WORDS, "warn",
         "istio_requests_total is there, without reporter: it has destination_service_name, destination_service_namespace,"),
        (lambda page: istio(page, reporter="waypoint"), WORDS, "warn",
         'istio_requests_total is there, and none has reporter="source": reporter is waypoint'),
        (lambda page: istio(page, destination_service_name="chat"), WORDS, "warn",
         "istio_requests_total is there, of no track: destination_service_name is chat, a track is chat-stable or chat-canary"),
        (istio, f'{WORDS}\ntrack_label = "destination_version"\ntracks = {{ stable = "v1", canary = "v2" }}', "warn",
         "istio_requests_total is there, without destination_version: it has destination_service_name"),
        (istio, WORDS.replace("500ms", "800ms"), "warn",
         "800 ms is no bound of istio_request_duration_milliseconds_bucket: there are 100, 250, 500, 1000; set slow under [service.chat"),
    ],
    ids=["all is there", "a label lacks", "another value", "another track's name", "a label of one's own", "no such bound"],
)  # fmt: skip
async def test_what_of_a_profile_is_missing_is_said(
    tmp_path: Path, make: Callable[[Page], None], words: str, level: str, says: str
) -> None:
    page = Page()
    make(page)
    async with scraped(tmp_path, page) as server:
        one = await Probing(tmp_path, server.url, "istio", words).says(
            lambda found: "is not there" not in found["says"]
        )
    assert one["level"] == level
    assert says in one["says"], one["says"]
    assert "reporter" in one["metrics"][0]["labels"] or "without reporter" in one["says"]


@needs_prometheus
async def test_a_server_without_the_metrics_and_one_that_is_away_are_told_apart(tmp_path: Path) -> None:
    page = Page()
    cluster = {"envoy_cluster_name": "httproute/ml/chat/rule/0", "envoy_response_code": "200"}
    page.add("envoy_cluster_upstream_rq", cluster, 3)
    page.observe("envoy_cluster_upstream_rq_time", {"envoy_cluster_name": "httproute/ml/chat/rule/0"}, BOUNDS, 20, 3)
    page.add("nginx_http_requests_total", {"class": "nginx"}, 3)
    page.add("nv_inference_request_success", {"namespace": "ml", "service": "chat-stable", "model": "chat"}, 3)
    page.add(
        "nv_inference_request_failure",
        {"namespace": "ml", "service": "chat-stable", "model": "chat", "reason": "BACKEND"},
        0,
    )
    async with scraped(tmp_path, page) as server:
        one = await Probing(tmp_path, server.url, "airboss", "").says()
        assert one["level"] == "warn" and "airboss_requests_total is not there: [gateway] metrics_listen" in one["says"]
        triton = 'labels = { namespace = "ml" }'
        one = await Probing(tmp_path, server.url, "triton", triton).says(
            lambda found: "_success is not" not in found["says"]
        )
        assert (
            "nv_inference_first_response_histogram_ms_bucket is not there: the first response of decoupled models"
            in one["says"]
        )
        envoy = (
            'tracks = { stable = "httproute/ml/chat/rule/0/backend/0", canary = "httproute/ml/chat/rule/0/backend/1" }'
        )
        one = await Probing(tmp_path, server.url, "envoy-gateway", envoy).says()
        assert (
            one["level"] == "warn"
            and "envoy_cluster_name is httproute/ml/chat/rule/0, a track is httproute/ml/chat" in one["says"]
        )
        assert one["says"].endswith(
            "without a filter on a backendRef, stable and canary are one cluster and nothing tells them apart"
        )
        one = await Probing(tmp_path, server.url, "nginx-gateway-fabric", "").says()
        assert one["level"] == "warn"
        assert "nginx_http_requests_total is there, and nothing can be judged: its open-source metrics" in one["says"]
        early = Probing(tmp_path, server.url, "triton", f'{triton}\ntracks = {{ stable = "v1" }}', is_live=False)
        one = await early.says()
        assert (one["level"], one["is_idle"]) == ("warn", False)
        server.stop()
        one = await Probing(tmp_path, server.url, "airboss", "").says()
        assert one["level"] == "warn" and "does not answer" in one["says"]


@needs_prometheus
async def test_before_anything_is_live_a_track_without_a_series_is_no_fault(tmp_path: Path) -> None:
    page = Page()
    istio(page, destination_service_name="other-stable")
    async with scraped(tmp_path, page) as server:
        one = await Probing(tmp_path, server.url, "istio", WORDS, is_live=False).says(
            lambda found: "not there" not in found["says"]
        )
    assert one["level"] == "ok"
    assert one["says"].startswith("nothing is live yet; istio_requests_total is there, of no track")
