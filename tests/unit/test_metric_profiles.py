"""Profiles: the workspace's words over a profile's own, and the PromQL that comes of it."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from adapters.profiles.catalogue import PROFILES
from engine.metrics_source import profile_of
from state.config import Config, parse_config
from state.metrics_config import NAMESPACE_LABEL, ProfileName, chosen

TOML = """
[metrics]
url = "http://prometheus:9090"
profile = "istio"
labels = { reporter = "waypoint", cluster = "~eu-.*" }
[metrics.environment.dev]
profile = "airboss"
[service.chat.metrics]
labels = { cluster = "eu-1", destination_service_namespace = "ml-{env}" }
tracks = { stable = "chat-v[0-9]{1,3}", canary = "{service}-next" }
[service.plain]
[environment.dev]
[environment.production]
targets = [{ runtime = "kubernetes", namespace = "ml" }]
"""


def config() -> Config:
    return parse_config(TOML, Path("airboss.toml"))


def test_a_file_may_name_every_profile_there_is_and_no_other() -> None:
    assert tuple(PROFILES) == get_args(ProfileName)
    for name, label in NAMESPACE_LABEL.items():
        assert any(match.label == label and match.value == "{namespace}" for match in PROFILES[name].where)
    for name, profile in PROFILES.items():
        wants = any(match.value == "{namespace}" for match in profile.where)
        assert wants == (name in NAMESPACE_LABEL), name


def test_a_services_words_go_before_the_workspaces_and_an_environments_before_both() -> None:
    settings = config()
    chat = settings.service["chat"].metrics
    there = chosen(settings.metrics, "production", chat)
    assert (there.name, there.labels["reporter"], there.labels["cluster"]) == ("istio", "waypoint", "eu-1")
    here = chosen(settings.metrics, "dev", chat)
    assert (here.name, here.labels, here.tracks) == ("airboss", {}, {})


def test_names_are_filled_in_and_a_label_of_the_workspace_takes_the_place_of_the_profiles() -> None:
    reading = profile_of(config(), "chat", "production")
    asked = reading.questions().queries["requests"]
    for said in (
        'reporter="waypoint"',
        'cluster="eu-1"',
        'destination_service_namespace="ml-production"',
        'destination_service_name=~"chat-v[0-9]{1,3}"',
        'destination_service_name=~"chat-next"',
    ):
        assert said in asked, asked
    assert "source" not in asked and "baseline" not in asked
    plain = profile_of(config(), "plain", "production").questions().queries["requests"]
    assert 'cluster=~"eu-.*"' in plain and 'destination_service_namespace="ml"' in plain
    assert all(f'destination_service_name=~"plain-{track}"' in plain for track in ("stable", "canary", "baseline"))
