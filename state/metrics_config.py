"""`[metrics]`: where evidence comes from, and by whose counters: which profile, and what of it is otherwise here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from state.config_types import Duration, Name, Table
from state.server_config import ServerAccess

ProfileName = Literal[
    "airboss", "istio", "envoy-gateway", "vllm", "triton", "nanogpt", "opentelemetry", "opentelemetry-genai", "nginx-gateway-fabric"
]  # fmt: skip
TrackName = Literal["stable", "canary", "baseline"]
NAMESPACED: Mapping[str, str] = {
    "istio": "labels.destination_service_namespace",
    "envoy-gateway": "tracks",
    "vllm": "labels.namespace",
    "triton": "labels.namespace",
    "nanogpt": "labels.namespace",
    "opentelemetry": "tracks",
    "opentelemetry-genai": "tracks",
}
"""Profile → the field by which it tells two environments' services of one name apart, unless it knows the namespace."""
NO_429 = frozenset({"vllm", "triton", "nanogpt", "nginx-gateway-fabric"})
"""Profiles whose counters do not tell 429 from other 4xx."""
_LABEL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class ProfileChoice(Table):
    """Whose counters are read (`airboss help prometheus`), and what of the profile is otherwise here.

    `labels` are matchers, added to the profile's or in the place of its own for that label; a value after `~` is a regular
    expression, "" means that the label is absent. A track is told by the value of `track_label`: `tracks` says, by regular
    expression, which values are which track. `{service}`, `{env}` and `{namespace}` stand for their names. `slow` is the threshold
    counted by, where `slo.latency_p95_ms` is no bound of the buckets. `count_429`: too many requests is an error (the server sheds).
    `latency = false`: the server counts no slow requests; the policy must say `judge = { latency = false }` then.
    """

    profile: ProfileName | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    track_label: str | None = None
    tracks: dict[TrackName, str] = Field(default_factory=dict)
    slow: Duration | None = Field(default=None, gt=0)
    count_429: bool = False
    latency: bool = True

    @field_validator("labels", "tracks")
    @classmethod
    def _compiles(cls, value: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        for name, text in value.items():
            if not _LABEL.fullmatch(name):
                raise ValueError(f"{name!r} is no label: letters, digits and _")
            if info.field_name == "tracks" or text.startswith("~"):
                try:
                    re.compile(text.removeprefix("~"))
                except re.error as error:
                    raise ValueError(f"{name} = {text!r} is no regular expression: {error}") from None
        return value

    @field_validator("track_label")
    @classmethod
    def _is_label(cls, value: str | None) -> str | None:
        if value is not None and not _LABEL.fullmatch(value):
            raise ValueError(f"{value!r} is no label: letters, digits and _")
        return value

    @property
    def name(self) -> ProfileName:
        """The profile; our own gateway's without a word."""
        return self.profile or "airboss"


class MetricsConfig(ProfileChoice):
    """Where evidence comes from: the embedded scraper unless `url`, a Prometheus server, is given (`airboss help prometheus`).

    `step` is how often it scrapes what is counted; `access` says who we are to it. `profile` and its fields hold for every service,
    `[service.NAME.metrics]` for one, `environment.NAME` for all services there: it has the last word.
    """

    url: str | None = None
    step: Duration = 5.0
    access: ServerAccess = ServerAccess()
    environment: dict[Name, ProfileChoice] = Field(default_factory=dict)


def chosen(metrics: MetricsConfig, env: str, service: ProfileChoice) -> ProfileChoice:
    """What holds for a service in an environment. Labels and tracks belong to the profile beside which they stand."""
    found = ProfileChoice()
    for words in (metrics, service, metrics.environment.get(env, ProfileChoice())):
        said = {name: getattr(words, name) for name in words.model_fields_set & set(ProfileChoice.model_fields)}
        if words.profile not in (None, found.name):
            found = ProfileChoice()
        for name in ("labels", "tracks"):
            said[name] = {**getattr(found, name), **said.get(name, {})}
        found = found.model_copy(update=said)
    return found


def troubles(
    metrics: MetricsConfig, services: Mapping[str, ProfileChoice], namespaces: Mapping[str, str | None]
) -> Iterator[str]:
    """What cannot be, in a sentence each. `namespaces`: environment → its namespace, None where it runs in no cluster."""
    for env in sorted(set(metrics.environment) - set(namespaces)):
        yield f"metrics.environment.{env}: no [environment.{env}] in this file"
    if metrics.url is None:
        return
    for service, words in services.items():
        for env, namespace in namespaces.items():
            choice = chosen(metrics, env, words)
            changed = choice.tracks or choice.track_label or choice.slow or choice.count_429 or not choice.latency
            if choice.name == "airboss" and changed:
                yield (
                    f"service.{service}.metrics: track_label, tracks, slow, count_429 and latency are for other servers' counters; "
                    f'profile "airboss" (in {env}) has its own'
                )
            if choice.count_429 and choice.name in NO_429:
                yield f'service.{service}.metrics.count_429: profile "{choice.name}" (in {env}) does not tell 429 from other 4xx'
            field, _, label = NAMESPACED.get(choice.name, "").partition(".")
            if field and namespace is None and not (label in choice.labels if label else choice.tracks):
                give = f'labels = {{ {label} = "…" }}' if label else 'tracks = { stable = "…", canary = "…" }'
                yield (
                    f'service.{service}.metrics: profile "{choice.name}" tells environments apart by namespace, and {env} is in no '
                    f'cluster: give {give}, or [metrics.environment.{env}] profile = "airboss"'
                )
