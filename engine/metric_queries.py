"""`airboss metric`: PromQL asked of the configured server by a person or a script, apart from the judge's own questions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from string import Template
from typing import Any

from adapters.profiles.profile import WORDS
from adapters.prometheus import PrometheusMetrics
from adapters.prometheus_server import Answer, Refused, no_answer
from engine.metrics_source import profile_of
from state.config import Config
from state.words import AirbossError, OperationFailed, Unreachable, UsageError

TIMEOUT_S = 20.0
POINTS = 60
"""How many points a range has where nobody says its step."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question as it was put to the server, and its answer. Times are Unix seconds; values are Prometheus' own text."""

    url: str
    query: str
    start: float | None
    end: float
    step_s: float | None
    series: Sequence[tuple[Mapping[str, str], Sequence[tuple[float, str]]]]
    warnings: Sequence[str]

    def as_dict(self) -> dict[str, Any]:
        """For the API."""
        series = [
            {"labels": dict(labels), "points": [list(point) for point in points]} for labels, points in self.series
        ]
        return {"url": self.url, "query": self.query, "start": self.start, "end": self.end, "step_s": self.step_s,
                "series": series, "warnings": list(self.warnings)}  # fmt: skip


class MetricQueries:
    """Asks in threads of its own, so that a heavy question holds up no evidence and opens no breaker of the judge's."""

    def __init__(self, config: Config, source: PrometheusMetrics | None) -> None:
        self._config, self._source = config, source
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="metric")

    async def ask(self, text: str, service: str, env: str, range_s: float | None, step_s: float | None) -> Asked:
        """The answer to a query, now or over the last `range_s`.

        Raises UsageError for what is no PromQL, in Prometheus' words; OperationFailed where it could not be worked out; Unreachable.
        """
        if self._source is None:
            raise UsageError(
                "there is no Prometheus to ask: the embedded scraper takes no PromQL",
                hint='[metrics] url = "http://…:9090" in airboss.toml',
                code="no_prometheus",
            )
        server, now = self._source.server, time.time()
        query = self.meant(text, service, env)
        start, step = (None, None) if range_s is None else (now - range_s, step_s or max(1.0, range_s / POINTS))

        def work() -> Answer:
            if start is None or step is None:
                return server.instant(query, now, timeout_s=TIMEOUT_S)
            return server.over(query, start, now, step, timeout_s=TIMEOUT_S)

        try:
            answer = await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except Refused as error:
            if error.status == 400:
                raise UsageError(f"Prometheus {error.message}", hint=f"asked: {query}", code="promql") from None
            raise OperationFailed(
                f"Prometheus {error.message}", hint="ask for less: a shorter range, fewer series"
            ) from None
        except AirbossError as error:
            raise Unreachable(f"{server.url} {error.message}") from None
        except Exception as error:
            # requests' and urllib3's errors alike: no answer came.
            raise Unreachable(f"{server.url} does not answer: {no_answer(error)}") from error
        return Asked(server.url, query, start, now, step, answer.series, answer.warnings)

    def meant(self, text: str, service: str, env: str) -> str:
        """The PromQL: a word of the service's profile, or text in which `$where`, `$service`, `$env` and `$window` are filled in."""
        if not service:
            return text
        env = env or self._only_env(service)
        if service not in self._config.service or env not in self._config.environment:
            raise UsageError(
                f"there is no service {service!r} in {env!r}",
                hint="`airboss service list` shows them",
                code="not_found",
            )
        reading = profile_of(self._config, service, env)
        window = f"{max(60, round(self._config.metrics.step * 4))}s"
        known = {"where": reading.scope, "service": service, "env": env, "window": window}
        found = reading.words(window, f"{max(1, round(self._config.metrics.step))}s").get(text)
        if found is None and text in WORDS:
            why = reading.profile.lacks.get(text) or reading.profile.cannot
            raise UsageError(f"profile {reading.profile.name} has no {text} of {service}: {why}", code="no_word")
        return Template(found or text).safe_substitute(known)

    def _only_env(self, service: str) -> str:
        names = tuple(self._config.environment)
        if len(names) != 1:
            raise UsageError(
                f"{service} is in {', '.join(names) or 'no environment'}: which?", hint="--env ENV", code="env"
            )
        return names[0]
