"""The Prometheus server of `[metrics]`, and by which profile each service is read there."""

from __future__ import annotations

from pathlib import Path

from adapters.profiles.catalogue import questions_of, reading_of
from adapters.profiles.profile import Place, Questions, Reading
from adapters.prometheus import PrometheusMetrics
from state.config import Config
from state.metrics_config import ProfileChoice, chosen
from state.server_config import Credentials


def prometheus_of(config: Config, root: Path) -> PrometheusMetrics | None:
    """The judge's source where `[metrics] url` is given. Raises UsageError for credentials that are not there."""
    settings = config.metrics
    if not settings.url:
        return None
    who = Credentials.of(settings.access, root)

    def ask(service: str, env: str) -> Questions:
        return questions_of(*words_and_place(config, service, env))

    return PrometheusMetrics(settings.url, step_s=round(settings.step) or 1, credentials=who, ask=ask)


def evidence_named(config: Config, service: str, env: str) -> str:
    """Whose counts a rollout is judged by, in words; "" where they are the gateway's own."""
    if not config.metrics.url:
        return ""
    return f"the counters of {profile_of(config, service, env).profile.title}, at {config.metrics.url}"


def words_and_place(config: Config, service: str, env: str) -> tuple[ProfileChoice, Place]:
    """What the workspace says of a service's counters in an environment, and whose they are."""
    settings, cluster = config.service[service], config.environment[env].cluster
    place = Place(service, env, cluster.namespace if cluster else None, settings.slo.latency_p95_ms)
    return chosen(config.metrics, env, settings.metrics), place


def profile_of(config: Config, service: str, env: str) -> Reading:
    """The profile by which a service is read in an environment."""
    return reading_of(*words_and_place(config, service, env))
