"""The model server's numbers under vLLM's names, so that one profile and one dashboard fit both.

Every label set exists from the start, at zero: a series that appears with its first error cannot be compared with
anything before it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from engine.serving.request import ErrorKind, FinishReason

if TYPE_CHECKING:
    from engine.serving.compute.core import Finished, StepReport

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
REJECTIONS = ("queue_full", "user_limit", "starting", "draining", "engine", "context", "invalid", "injected_fault")
"""Why the front turned a request away."""

_FIRST_TOKEN = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0),
    *(2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
_BETWEEN_TOKENS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
_LATENCY = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)
_SOURCES = ("local_compute", "local_cache_hit")
_CHOICES = (1, 2, 5, 10, 20)
_LABELS = ("engine", "model_name")


class ServingMetrics:
    """All series of one model server. The engine thread records steps; the front records rejections and scrapes."""

    def __init__(self, model_name: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._labels = ("0", model_name)
        self.on_finished: Callable[[int, Finished], None] = lambda number, finished: None
        """Called in the engine's thread, before the update that says so, with what an ended generation amounted to."""
        self._running = self._gauge("num_requests_running", "Requests that have a slot")
        self._waiting = self._gauge("num_requests_waiting", "Requests that wait for a slot")
        self._waiting_why = self._gauges(
            "num_requests_waiting_by_reason", "Requests that wait, by why", "reason", ("capacity", "deferred")
        )
        sleep = self._gauges(
            "engine_sleep_state",
            "1: the state the engine is in",
            "sleep_state",
            ("awake", "weights_offloaded", "discard_all"),
        )
        sleep["awake"].set(1)
        self._cache_usage = self._gauge("kv_cache_usage_perc", "Share of the KV cache in use, 0 to 1")
        self._prompt_tokens = self._counter("prompt_tokens", "Prompt tokens of finished requests")
        self._cached_prompt_tokens = self._counter(
            "prompt_tokens_cached", "Prompt tokens of finished requests that the prefix cache had"
        )
        self._by_source = self._counters(
            "prompt_tokens_by_source", "Prompt tokens of finished requests, by where they came from", "source", _SOURCES
        )
        self._prefix_queries = self._counter("prefix_cache_queries", "Prompt tokens looked up in the prefix cache")
        self._prefix_hits = self._counter("prefix_cache_hits", "Prompt tokens found there")
        self._corrupted = self._counter("corrupted_requests", "Requests whose logits were not numbers")
        self._generation_tokens = self._counter("generation_tokens", "Tokens generated")
        self._preemptions = self._counter("num_preemptions", "Requests put back to waiting")
        self._success = self._counters(
            "request_success", "Requests by how they ended", "finished_reason", tuple(FinishReason)
        )
        self._rejections = self._counters(
            "admission_rejections", "Requests turned away by the front", "reason", REJECTIONS
        )
        self._first_token = self._histogram("time_to_first_token_seconds", "Arrival to first token", _FIRST_TOKEN)
        self._gap = self._histogram("inter_token_latency_seconds", "Between two tokens", _BETWEEN_TOKENS)
        self._per_token = self._histogram(
            "request_time_per_output_token_seconds", "Mean time of a token after the first", _BETWEEN_TOKENS
        )
        self._e2e = self._histogram("e2e_request_latency_seconds", "Arrival to last token", _LATENCY)
        self._queue = self._histogram("request_queue_time_seconds", "Time waiting for a slot", _LATENCY)
        self._inference = self._histogram("request_inference_time_seconds", "Time with a slot", _LATENCY)
        self._prefill = self._histogram("request_prefill_time_seconds", "Slot to first token", _LATENCY)
        self._decode = self._histogram("request_decode_time_seconds", "First to last token", _LATENCY)
        self._prompt_size = self._histogram("request_prompt_tokens", "Prompt tokens of a request", _TOKENS)
        self._generated = self._histogram("request_generation_tokens", "Tokens generated of a request", _TOKENS)
        self._asked = self._histogram("request_params_max_tokens", "max_tokens of a request", _TOKENS)
        self._asked_n = self._histogram("request_params_n", "Answers asked for by a request", _CHOICES)
        self._longest = self._histogram(
            "request_max_num_generation_tokens", "The longest answer a request may get", _TOKENS
        )
        self._computed = self._histogram(
            "request_prefill_kv_computed_tokens", "Prompt tokens of a request that had to be computed", _TOKENS
        )
        self._iteration = self._histogram("iteration_tokens_total", "Tokens computed in a step", _TOKENS)

    def record_step(self, step: StepReport) -> None:
        """Count what a step did."""
        self._iteration.observe(step.computed_tokens)
        self._generation_tokens.inc(len(step.first_token_s) + len(step.gaps_s))
        for seconds in step.first_token_s:
            self._first_token.observe(seconds)
        for seconds in step.gaps_s:
            self._gap.observe(seconds)
        self._preemptions.inc(step.preemptions)
        self._prefix_queries.inc(step.prefix_queries)
        self._prefix_hits.inc(step.prefix_hits)
        ended = [update for update in step.updates if update.finish is not None]
        self._corrupted.inc(sum(update.error is ErrorKind.NOT_A_NUMBER for update in ended))
        for update, finished in zip(ended, step.finished, strict=True):
            self.record_finished(finished)
            self.on_finished(update.number, finished)

    def record_finished(self, finished: Finished) -> None:
        """Count a request that ended, whichever way."""
        self._success[finished.reason].inc()
        self._prompt_tokens.inc(finished.prompt_tokens)
        computed = finished.prompt_tokens - finished.cached_tokens
        self._cached_prompt_tokens.inc(finished.cached_tokens)
        self._by_source["local_compute"].inc(computed)
        self._by_source["local_cache_hit"].inc(finished.cached_tokens)
        self._computed.observe(computed)
        self._queue.observe(finished.queue_s)
        self._inference.observe(finished.prefill_s + finished.decode_s)
        self._prefill.observe(finished.prefill_s)
        self._decode.observe(finished.decode_s)
        self._e2e.observe(finished.e2e_s)
        self._prompt_size.observe(finished.prompt_tokens)
        self._generated.observe(finished.completion_tokens)
        self._asked.observe(finished.max_tokens)
        if finished.completion_tokens > 1:
            self._per_token.observe(finished.decode_s / (finished.completion_tokens - 1))

    def record_request(self, *, n: int, max_tokens: int) -> None:
        """Count a request let in, however many generations it starts."""
        self._asked_n.observe(n)
        self._longest.observe(max_tokens)

    def record_rejection(self, reason: str) -> None:
        """Count a request turned away; `reason` is one of REJECTIONS."""
        self._rejections[reason].inc()

    def record_load(self, *, running: int, waiting: int, cache_usage: float) -> None:
        """Set the gauges."""
        self._running.set(running)
        self._waiting.set(waiting)
        self._waiting_why["capacity"].set(waiting)
        self._cache_usage.set(cache_usage)

    def describe_cache(self, *, blocks: int, block_size: int, dtype: str) -> None:
        """Publish the cache's shape once it is known."""
        info = Gauge(
            "vllm:cache_config_info",
            "The KV cache's configuration",
            (*_LABELS, "block_size", "num_gpu_blocks", "cache_dtype"),
            registry=self.registry,
        )
        info.labels(*self._labels, str(block_size), str(blocks), dtype).set(1)

    def exposition(self) -> bytes:
        """Everything, in Prometheus's text format."""
        return generate_latest(self.registry)

    def _gauge(self, name: str, help_text: str) -> Gauge:
        return Gauge(f"vllm:{name}", help_text, _LABELS, registry=self.registry).labels(*self._labels)

    def _counter(self, name: str, help_text: str) -> Counter:
        return Counter(f"vllm:{name}", help_text, _LABELS, registry=self.registry).labels(*self._labels)

    def _histogram(self, name: str, help_text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"vllm:{name}", help_text, _LABELS, buckets=buckets, registry=self.registry).labels(
            *self._labels
        )

    def _gauges(self, name: str, help_text: str, label: str, values: tuple[str, ...]) -> dict[str, Gauge]:
        family = Gauge(f"vllm:{name}", help_text, (*_LABELS, label), registry=self.registry)
        return {value: family.labels(*self._labels, value) for value in values}

    def _counters(self, name: str, help_text: str, label: str, values: tuple[str, ...]) -> dict[str, Counter]:
        family = Counter(f"vllm:{name}", help_text, (*_LABELS, label), registry=self.registry)
        return {value: family.labels(*self._labels, str(value)) for value in values}
