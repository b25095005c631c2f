"""Profiles: the workspace's words over a profile's own, and the PromQL that comes of it."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.ports import ArmCounts, ArmEvidence, Interval
from adapters.profiles.catalogue import PROFILES
from adapters.profiles.lag import settled
from adapters.profiles.table import reasons, table
from engine.metrics_source import profile_of
from engine.rollouts.judge import judge
from engine.rollouts.playable import refuse_unplayed
from engine.rollouts.verdict import JudgeInput, JudgePolicy
from state.config import Config, Slo, parse_config
from state.metrics_config import NAMESPACED, NO_429, ProfileName, chosen
from state.policy_config import JudgeConfig, Policy
from state.words import UsageError, VerdictKind

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
    for name, profile in PROFILES.items():
        assert (name in NO_429) is not profile.knows_429
        field, _, label = NAMESPACED.get(name, "").partition(".")
        by_label = {match.label for match in profile.where if match.value == "{namespace}"}
        assert by_label == ({label} if label else set()), name
        assert any("{namespace}" in value for value in profile.tracks.values()) is (field == "tracks"), name


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


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=12))
def test_slow_ones_stay_within_their_requests_and_none_is_lost_that_has_room(counts: list[tuple[int, int]]) -> None:
    arms = [ArmCounts(requests, 0, slow) for requests, slow in counts]
    found = settled([Interval(float(at), at + 1.0, ArmCounts(), arm) for at, arm in enumerate(arms)])
    assert all(one.canary.slow <= one.canary.requests == arm.requests for one, arm in zip(found, arms, strict=True))
    requests, slow = (sum(getattr(arm, what) for arm in arms) for what in ("requests", "slow"))
    assert sum(one.canary.slow for one in found) == min(requests, slow)


def test_the_page_has_the_table_that_the_profiles_make() -> None:
    page = (Path(table.__code__.co_filename).parents[1] / "PROMETHEUS.md").read_text(encoding="utf-8")
    assert f"{table()}\n\n{reasons()}\n" in page


def test_a_profile_that_cannot_judge_is_refused_before_anything_is_written() -> None:
    source = TOML.replace('profile = "istio"', 'profile = "nginx-gateway-fabric"').replace(
        'namespace = "ml" }]', 'namespace = "ml", ownership = "full", traffic = "httproute" }]'
    )
    policy = Policy.model_validate({"steps": [{"weight": 50}, {"weight": 100}]})
    with pytest.raises(
        UsageError, match="plain in production cannot be judged by profile nginx-gateway-fabric: its open-source"
    ):
        refuse_unplayed(parse_config(source, Path("airboss.toml")), "plain", "production", policy)
    refuse_unplayed(
        parse_config(source.replace("nginx-gateway-fabric", "vllm"), Path("airboss.toml")),
        "plain",
        "production",
        policy,
    )


def test_latency_that_nobody_counts_must_be_left_out_by_the_policy_too() -> None:
    source = TOML.replace("[service.plain]", "[service.plain.metrics]\nlatency = false").replace(
        'namespace = "ml" }]', 'namespace = "ml", ownership = "full", traffic = "httproute" }]'
    )
    config = parse_config(source, Path("airboss.toml"))
    assert set(profile_of(config, "plain", "production").questions().queries) == {"requests", "errors"}
    steps = [{"weight": 50}, {"weight": 100}]
    with pytest.raises(
        UsageError, match=r"the policy judges latency, and service\.plain\.metrics says that nobody counts"
    ):
        refuse_unplayed(config, "plain", "production", Policy.model_validate({"steps": steps}))
    without = Policy.model_validate({"steps": steps, "judge": {"latency": False}})
    refuse_unplayed(config, "plain", "production", without)


@pytest.mark.parametrize(("latency", "kind"), [(True, VerdictKind.NO_DATA), (False, VerdictKind.PASS)])
def test_zero_slow_requests_of_a_source_that_counts_none_is_no_pass(latency: bool, kind: VerdictKind) -> None:
    policy = JudgePolicy.from_config(JudgeConfig(latency=latency), Slo())
    both = Interval(0.0, 60.0, ArmCounts(9000, 9), ArmCounts(9000, 9))
    evidence = ArmEvidence((both,), 0.0, 1.0, lacks=("slow",))
    verdict = judge(
        JudgeInput(evidence, policy, elapsed_s=60.0, has_stable_arm=True, crash_loop=None, configured_weight_pct=50)
    )
    assert verdict.kind is kind
    assert ("does not count what is to be judged: slow" in verdict.sentence) is latency
