"""Each profile on a page in its server's documented shape, scraped by a real Prometheus: what the judge's counts are then.

The same happens behind each: stable answers 80 and five slowly, seven callers ask for what is not there; the canary answers 30, twelve
break, and callers leave where the server counts that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from adapters.profiles.catalogue import PROFILES
from engine.metric_queries import MetricQueries
from state.config import parse_config
from state.words import UsageError
from tests.exposition import Judged, Page, of, scraped
from tests.monitoring_servers import needs_prometheus
from tests.rollout_room import CONFIG

Happen = Callable[[Page, str, str, int], None]
"""(page, track, what, how many): what is ok, slow, not_found, quota, broken or left."""
pytestmark = pytest.mark.deep
CODES = {"ok": "200", "slow": "200", "not_found": "404", "quota": "429", "broken": "503"}


def envoy_gateway(page: Page, track: str, what: str, count: int) -> None:
    """Envoy's page: a cluster a backend, for one of the backendRefs has a filter."""
    cluster = f"httproute/ml/chat/rule/0/backend/{['stable', 'canary'].index(track)}"
    if what in CODES:
        named = {"envoy_response_code": CODES[what], "envoy_cluster_name": cluster}
        page.add("envoy_cluster_upstream_rq", named, count)
        page.add("envoy_cluster_retry_upstream_rq", named, count)
        bounds = ("0.5", "1", "5", "10", "25", "50", "100", "250", "500", "1000", "2500")
        page.observe(
            "envoy_cluster_upstream_rq_time",
            {"envoy_cluster_name": cluster},
            bounds,
            900 if what == "slow" else 20,
            count,
        )


def vllm(page: Page, track: str, what: str, count: int) -> None:
    """vLLM's page, with the labels that a ServiceMonitor gives its target."""
    place = {"service": f"chat-{track}", "namespace": "ml", "pod": f"chat-{track}-0"}
    http = {**place, "handler": "/v1/chat/completions", "method": "POST"}
    page.add("http_requests_total", {**place, "handler": "/v1/models", "method": "GET", "status": "5xx"}, count)
    if what in CODES:
        page.add("http_requests_total", {**http, "status": f"{CODES[what][0]}xx"}, count)
    if what in ("ok", "slow"):
        engine = {**place, "model_name": "chat", "engine": "0"}
        page.add("vllm:request_success_total", {**engine, "finished_reason": "stop"}, count)
        bounds = ("0.3", "0.5", "0.8", "1.0", "1.5", "2.0", "2.5", "5.0", "10.0")
        page.observe("vllm:e2e_request_latency_seconds", engine, bounds, 0.9 if what == "slow" else 0.2, count)


def triton(page: Page, track: str, what: str, count: int) -> None:
    """Triton's page of one server with two versions of the model; an ensemble's part counts beside it."""
    place = {"namespace": "ml", "version": {"stable": "1", "canary": "2"}[track]}
    for model in ("chat", "tokenizer"):
        named = {**place, "model": model}
        for reason in ("REJECTED", "CANCELED", "BACKEND", "OTHER"):
            page.add("nv_inference_request_failure", {**named, "reason": reason}, 0)
        page.add("nv_inference_request_success", named, 0)
        if what in ("broken", "left"):
            page.add(
                "nv_inference_request_failure",
                {**named, "reason": "BACKEND" if what == "broken" else "CANCELED"},
                count,
            )
        elif what in ("ok", "slow"):
            page.add("nv_inference_request_success", named, count)
            bounds = ("100", "500", "2000", "5000")
            page.observe(
                "nv_inference_first_response_histogram_ms", named, bounds, 900 if what == "slow" else 20, count
            )


def opentelemetry(page: Page, track: str, what: str, count: int) -> None:
    """A collector's page of HTTP servers: an answer that never came has no code and an error.type."""
    named = {
        "job": f"ml/chat-{track}",
        "instance": f"chat-{track}-0",
        "http_request_method": "POST",
        "http_route": "/v1/x",
    }
    named |= {"http_response_status_code": CODES[what]} if what in ("ok", "slow", "not_found", "quota") else {}
    named |= {"error_type": "timeout"} if what == "broken" else {}
    if what in CODES:
        bounds = ("0.005", "0.01", "0.025", "0.05", "0.075", "0.1", "0.25", "0.5", "0.75", "1", "2.5", "5", "7.5", "10")
        page.observe("http_server_request_duration_seconds", named, bounds, 0.9 if what == "slow" else 0.2, count)


def nanogpt(page: Page, track: str, what: str, count: int) -> None:
    """The page of nanoGPT's server, with the labels that a ServiceMonitor gives its target; its callers make no mistakes here."""
    named = {"service": f"chat-{track}", "namespace": "ml", "endpoint": "generate"}
    if what in ("ok", "slow", "broken"):
        page.add("nanogpt_requests_total", {**named, "status": "error" if what == "broken" else "success"}, count)
        bounds = ("0.005", "0.01", "0.1", "0.25", "0.5", "0.75", "1.0", "2.5", "5.0", "7.5", "10.0")
        page.observe("nanogpt_request_latency_seconds", named, bounds, 0.9 if what == "slow" else 0.2, count)


def genai(page: Page, track: str, what: str, count: int) -> None:
    """A collector's page of model servers: error.type is a code or a name, and is not there where all went well."""
    named = {
        "job": f"ml/chat-{track}",
        "instance": f"chat-{track}-0",
        "gen_ai_operation_name": "chat",
        "gen_ai_request_model": "m",
    }
    named |= (
        {"error_type": {"not_found": "404", "quota": "429", "broken": "EngineDeadError"}[what]}
        if what not in ("ok", "slow", "left")
        else {}
    )
    if what in CODES:
        bounds = ("0.01", "0.02", "0.04", "0.08", "0.16", "0.32", "0.64", "1.28", "2.56", "5.12")
        page.observe("gen_ai_server_request_duration_seconds", named, bounds, 0.9 if what == "slow" else 0.2, count)


METRICS = """
[metrics]
url = "{url}"
step = "1s"
profile = "{profile}"
[service.chat.metrics]
{words}
"""
WORDS: dict[str, tuple[Happen, str]] = {
    "envoy-gateway": (envoy_gateway, 'tracks = { stable = "httproute/ml/chat/rule/.+/backend/0", canary = ".+/ml/chat/rule/0/backend/1" }\nslow = "500ms"'),
    "vllm": (vllm, 'labels = { namespace = "ml" }\nslow = "800ms"'),
    "triton": (triton, 'labels = { namespace = "ml" }\ntrack_label = "version"\ntracks = { stable = "1", canary = "2" }\nslow = "500ms"'),
    "nanogpt": (nanogpt, 'labels = { namespace = "ml" }\nslow = "500ms"'),
    "opentelemetry-genai": (genai, 'tracks = { stable = "ml/chat-stable", canary = "ml/chat-canary" }\nslow = "640ms"'),
    "opentelemetry": (opentelemetry, 'tracks = { stable = "ml/{service}-stable", canary = "ml/{service}-canary" }\nslow = "750ms"'),
}  # fmt: skip


async def until_rated(asks: MetricQueries, word: str, least: float) -> None:
    """Ask until both tracks have the word's number, and the canary's is at least so much."""
    deadline = time.monotonic() + 30
    while True:
        answer = await asks.ask(word, "chat", "", None, None)
        found = {labels["track"]: float(points[-1][1]) for labels, points in answer.series}
        if set(found) == {"stable", "canary"} and found["canary"] >= least:
            return
        assert time.monotonic() < deadline, (word, found, answer.query)
        await asyncio.sleep(0.3)


@needs_prometheus
@pytest.mark.parametrize("profile", WORDS)
async def test_the_judges_counts_of_each_server(tmp_path: Path, profile: str) -> None:
    happen, words = WORDS[profile]
    page = Page()
    for track, life in (("stable", 1000), ("canary", 10)):
        happen(page, track, "ok", life)
    async with scraped(tmp_path, page, honor_labels="opentelemetry" in profile) as server:
        toml = CONFIG + METRICS.format(url=server.url, profile=profile, words=words)
        judged = Judged(toml, tmp_path)
        await judged.until(lambda seen: seen.intervals)
        for what, count in (("ok", 80), ("slow", 5), ("not_found", 7), ("quota", 4)):
            happen(page, "stable", what, count)
        for what, count in (("ok", 30), ("broken", 12), ("left", 9)):
            happen(page, "canary", what, count)
        assert await judged.sums(42) == ((85, 0, 5), (42, 12, 0))
        if PROFILES[profile].knows_429:
            shedding = Judged(f"{toml}count_429 = true\n", tmp_path, judged.since)
            assert await shedding.sums(42) == ((89, 4, 5), (42, 12, 0))
        config = parse_config(toml, Path("airboss.toml"))
        asks = MetricQueries(config, judged.source)
        for word, least in (("requests", 0.1), ("errors", 0.1), ("slow", 0.0)):
            await until_rated(asks, word, least)
        for word in set(PROFILES[profile].more) - {"gpu"}:
            await asks.ask(word, "chat", "", None, None)


@needs_prometheus
async def test_vllms_queue_and_its_pods_gpus_are_had_by_word(tmp_path: Path) -> None:
    page = Page()
    place = {"service": "chat-canary", "namespace": "ml", "model_name": "chat", "engine": "0"}
    page.add("vllm:num_requests_waiting", place, 3)
    page.add("vllm:num_requests_waiting", {**place, "service": "other-canary"}, 8)
    async with scraped(tmp_path, page) as server:
        toml = CONFIG + METRICS.format(url=server.url, profile="vllm", words='labels = { namespace = "ml" }')
        asks = MetricQueries(parse_config(toml, Path("airboss.toml")), Judged(toml, tmp_path).source)
        while not (found := await asks.ask("queue", "chat", "production", None, None)).series:
            await asyncio.sleep(0.2)
        ((labels, points),) = found.series
        assert (labels, points[-1][1]) == ({"service": "chat-canary"}, "3")
        page.add(
            "DCGM_FI_DEV_GPU_UTIL",
            {"gpu": "0", "exported_pod": "chat-5d9f-x1", "exported_namespace": "ml", "pod": "dcgm-7"},
            60,
        )
        page.add("DCGM_FI_DEV_GPU_UTIL", {"gpu": "1", "pod": "chat-5d9f-x2", "namespace": "ml"}, 25)
        page.add("DCGM_FI_DEV_GPU_UTIL", {"gpu": "2", "pod": "chat-5d9f-x3", "namespace": "dev"}, 99)
        page.add("DCGM_FI_DEV_GPU_UTIL", {"gpu": "3", "pod": "other-1", "namespace": "ml"}, 99)
        while not (found := await asks.ask("gpu", "chat", "production", None, None)).series:
            await asyncio.sleep(0.2)
    assert {labels["pod"]: points[-1][1] for labels, points in found.series} == {
        "chat-5d9f-x1": "0.6",
        "chat-5d9f-x2": "0.25",
    }


@needs_prometheus
async def test_a_triton_without_histograms_is_counted_without_latency_and_says_so(tmp_path: Path) -> None:
    page = Page()
    place = {"namespace": "ml", "model": "chat"}
    page.add("nv_inference_request_success", {**place, "service": "chat-stable"}, 900)
    page.add("nv_inference_request_success", {**place, "service": "chat-canary"}, 5)
    async with scraped(tmp_path, page) as server:
        words = 'labels = { namespace = "ml" }'
        toml = CONFIG + METRICS.format(url=server.url, profile="triton", words=words)
        judged = Judged(f"{toml}latency = false\n", tmp_path)
        await judged.until(lambda seen: seen.intervals)
        page.add("nv_inference_request_success", {**place, "service": "chat-canary"}, 20)
        page.add("nv_inference_request_failure", {**place, "service": "chat-canary", "reason": "REJECTED"}, 4)
        seen = await judged.until(lambda found: of(found, "canary")[0] >= 24)
        assert (of(seen, "canary"), seen.lacks) == ((24, 4, 0), ("slow",))
        with_latency = Judged(toml, tmp_path, judged.since)
        assert (await with_latency.arms()).trouble.startswith("series_missing: slow of")


@needs_prometheus
async def test_nginx_gateway_fabric_is_no_evidence_and_says_why(tmp_path: Path) -> None:
    page = Page()
    page.add("nginx_http_requests_total", {"job": "ngf"}, 100)
    async with scraped(tmp_path, page) as server:
        judged = Judged(CONFIG + METRICS.format(url=server.url, profile="nginx-gateway-fabric", words=""), tmp_path)
        seen = await judged.arms()
    assert not seen.intervals
    assert seen.trouble.startswith(
        "series_missing: profile nginx-gateway-fabric: its open-source metrics count the whole gateway"
    )


@pytest.mark.parametrize("profile", ["vllm", "triton", "nanogpt", "nginx-gateway-fabric"])
def test_a_429_that_a_server_does_not_tell_from_other_4xx_cannot_be_an_error(profile: str, tmp_path: Path) -> None:
    words = 'labels = { namespace = "ml" }\ncount_429 = true'
    with pytest.raises(UsageError, match="does not tell 429 from other 4xx"):
        Judged(CONFIG + METRICS.format(url="http://127.0.0.1:9", profile=profile, words=words), tmp_path)
