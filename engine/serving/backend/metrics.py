"""/metrics of a foreign backend: its own text, the same under vLLM's names, and what the front itself measures.

What the front counts stands in for what the server does not say: no series is there twice.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from engine.serving.backend.profiles import Series, families, mapped
from engine.serving.backend.settings import Profile

REJECTIONS = ("queue_full", "starting", "draining", "engine", "invalid", "injected_fault")
_FINISHED = ("stop", "abort", "error")
_LABELS = ("engine", "model_name")
_FIRST_EVENT = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
                80.0, 160.0, 640.0, 2560.0)  # fmt: skip
_LATENCY = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
            1920.0, 7680.0)  # fmt: skip
"""vLLM's own buckets, so that its dashboards fit."""


class FrontMetrics:
    """What the front sees of every request."""

    def __init__(self, model_name: str, profile: Profile) -> None:
        self._profile = profile
        self._labels = ("0", model_name)
        self._registry = CollectorRegistry()
        running = Gauge("vllm:num_requests_running", "Requests the backend has", _LABELS, registry=self._registry)
        waiting = Gauge("vllm:num_requests_waiting", "Requests that wait", _LABELS, registry=self._registry)
        waiting.labels(*self._labels).set(0)
        self._running = running.labels(*self._labels)
        self._success = self._counters(
            "vllm:request_success", "Requests by how they ended", "finished_reason", _FINISHED
        )
        self._rejections = self._counters(
            "vllm:admission_rejections", "Requests turned away by the front", "reason", REJECTIONS
        )
        # Under a name of our own too: a backend that counts rejections of its own hides ours under vLLM's.
        self._own_rejections = self._counters(
            "airboss_backend_rejections", "Requests turned away before the backend", "reason", REJECTIONS
        )
        self._first = self._histogram("vllm:time_to_first_token_seconds", "Arrival to first event", _FIRST_EVENT)
        self._e2e = self._histogram("vllm:e2e_request_latency_seconds", "Arrival to last byte", _LATENCY)
        self._scrapes = Counter(
            "airboss_backend_scrape_failures", "Scrapes the backend did not answer", _LABELS, registry=self._registry
        ).labels(*self._labels)

    def began(self) -> None:
        """A request was passed on."""
        self._running.inc()

    def finished(self, how: str, *, first_s: float | None, e2e_s: float) -> None:
        """It ended: `how` is stop, abort or error. `first_s`: until the first event of a stream."""
        self._running.dec()
        self._success[how].inc()
        self._e2e.observe(e2e_s)
        if first_s is not None:
            self._first.observe(first_s)

    def rejected(self, reason: str) -> None:
        """The front turned a request away."""
        self._rejections[reason].inc()
        self._own_rejections[reason].inc()

    def scrape_failed(self) -> None:
        """The backend's own metrics could not be had."""
        self._scrapes.inc()

    def exposition(self, foreign: str) -> bytes:
        """Everything in Prometheus's text format. `foreign` is the backend's own exposition, "" when there is none."""
        try:
            found = mapped(self._profile, foreign)
        except ValueError:
            self.scrape_failed()
            foreign, found = "", ()
        said = families(foreign) | {series.name.removesuffix("_total") for series in found}
        own = generate_latest(_Without(self._registry, said)).decode()
        theirs = foreign if not foreign or foreign.endswith("\n") else foreign + "\n"
        return (theirs + "".join(self._lines(found)) + own).encode()

    def _lines(self, found: tuple[Series, ...]) -> Iterator[str]:
        for series in found:
            labels = {**dict(zip(_LABELS, self._labels, strict=True)), **series.labels}
            shown = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
            yield f"# TYPE {series.name} {series.kind}\n{series.name}{{{shown}}} {float(series.value)}\n"

    def _counters(self, name: str, text: str, label: str, values: tuple[str, ...]) -> dict[str, Counter]:
        family = Counter(name, text, (*_LABELS, label), registry=self._registry)
        return {value: family.labels(*self._labels, value) for value in values}

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, _LABELS, buckets=buckets, registry=self._registry).labels(*self._labels)


class _Without(CollectorRegistry):
    """A registry less some of its families, for one exposition."""

    def __init__(self, registry: Collector, names: frozenset[str]) -> None:
        super().__init__()
        self._whole = registry
        self._names = names

    def collect(self) -> Iterator[Metric]:
        """See CollectorRegistry."""
        yield from (metric for metric in self._whole.collect() if metric.name not in self._names)


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
