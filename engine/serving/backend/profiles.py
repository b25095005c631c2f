"""The foreign servers' metrics under vLLM's names. Pure: text in, series out.

Sources: llama.cpp tools/server README (`--metrics`), TGI docs/source/reference/metrics, Triton's metrics guide and the
TensorRT-LLM backend's custom metrics. What a server does not say is not made up. A counter is named here with `_total`,
as the parser names it, whether or not the server does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from prometheus_client.parser import text_string_to_metric_families

from engine.serving.backend.settings import Profile


@dataclass(frozen=True, slots=True)
class Mapped:
    """One foreign series, by name and labels, and vLLM's name for it."""

    source: str
    target: str
    kind: Literal["gauge", "counter"]
    labels: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, str] = field(default_factory=dict)
    """Labels that vLLM's series has beside the model's."""


_STOP = {"finished_reason": "stop"}
_TRT = "nv_trt_llm_request_metrics"
PROFILES: Mapping[Profile, tuple[Mapped, ...]] = {
    "none": (),
    "vllm": (),
    "llamacpp": (
        Mapped("llamacpp:requests_processing", "vllm:num_requests_running", "gauge"),
        Mapped("llamacpp:requests_deferred", "vllm:num_requests_waiting", "gauge"),
        Mapped("llamacpp:kv_cache_usage_ratio", "vllm:kv_cache_usage_perc", "gauge"),
        Mapped("llamacpp:prompt_tokens_total", "vllm:prompt_tokens_total", "counter"),
        Mapped("llamacpp:tokens_predicted_total", "vllm:generation_tokens_total", "counter"),
    ),
    "tgi": (
        Mapped("tgi_batch_current_size", "vllm:num_requests_running", "gauge"),
        Mapped("tgi_queue_size", "vllm:num_requests_waiting", "gauge"),
        Mapped("tgi_request_input_length_sum", "vllm:prompt_tokens_total", "counter"),
        Mapped("tgi_request_generated_tokens_sum", "vllm:generation_tokens_total", "counter"),
        Mapped("tgi_request_success_total", "vllm:request_success_total", "counter", extra=_STOP),
    ),
    "triton": (
        Mapped(_TRT, "vllm:num_requests_running", "gauge", {"request_type": "active"}),
        Mapped(_TRT, "vllm:num_requests_waiting", "gauge", {"request_type": "waiting"}),
        Mapped("nv_inference_pending_request_count", "vllm:num_requests_waiting", "gauge"),
        Mapped(
            "nv_trt_llm_kv_cache_block_metrics",
            "vllm:kv_cache_usage_perc",
            "gauge",
            {"kv_cache_block_type": "fraction"},
        ),
        Mapped("nv_inference_request_success_total", "vllm:request_success_total", "counter", extra=_STOP),
    ),
}


@dataclass(frozen=True, slots=True)
class Series:
    """One number under vLLM's name."""

    name: str
    kind: str
    labels: Mapping[str, str]
    value: float


def mapped(profile: Profile, text: str) -> tuple[Series, ...]:
    """What `text` says in vLLM's words: sums over models and versions; the first source that says something counts.

    Raises ValueError when `text` is no exposition.
    """
    wanted = PROFILES[profile]
    if not wanted:
        return ()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    found: dict[str, Series] = {}
    for one in wanted:
        values = [
            s.value
            for s in samples
            if s.name == one.source and all(s.labels.get(k) == v for k, v in one.labels.items())
        ]
        if values and one.target not in found:
            found[one.target] = Series(one.target, one.kind, one.extra, sum(values))
    return tuple(found.values())


_FAMILY = re.compile(r"^# TYPE (\S+) ", re.MULTILINE)


def families(text: str) -> frozenset[str]:
    """The names of the families in an exposition, counters without their `_total`."""
    return frozenset(name.removesuffix("_total") for name in _FAMILY.findall(text))
