"""airboss.toml: what it may say, and errors with file, line, field and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state.config import Config, load_config, parse_config
from state.config_types import parse_duration
from state.words import ConfigError, ExitCode, UsageError

HERE = Path("airboss.toml")


@pytest.mark.parametrize(
    ("source", "where", "what"),
    [
        ("[environment.production]\nbogus = 1\n", ":2: environment.production.bogus", "allowed: protected, targets"),
        ("[policy.p.judge]\nx = 1\n", ":2: policy.p.judge.x", "min_requests"),
        ("[service.a]\n\nslo = { availability = 150 }\n", ":3: service.a.slo.availability", "less than 100"),
        ('[gateway]\nlisten = "x"\n', "gateway", "HOST:PORT"),
        ("[policy.p]\nsteps = [{ weight = 50 }, { weight = 25 }]\n", "policy.p", "rise"),
        ("[policy.p]\nsteps = [{ weight = 50 }]\n", "policy.p", "last weight must be 100"),
        ("[policy.p]\nsteps = [{ weight = 50, pause = 3 }]\n", "policy.p.steps.0", "exactly one"),
        ('[service.a]\npipeline = "no"\n', "service.a.pipeline", "no [pipeline.no]"),
        ('[environment.e]\npolicy = "no"\n', "environment.e.policy", "no [policy.no]"),
        ('[service.a]\nprober_interval = "5 moons"\n', ":2: service.a.prober_interval", "'90s'"),
        ('[alerts]\nwebhook = "x"\n[x]\napi_token = "abc"\n', ":4: x.api_token", "secret"),
        ('[state]\nurl = "mysql://db/airboss"\n', ":2: state.url", "must be postgresql:"),
        ('[metrics]\nprofile = "isto"\n', ":2: metrics.profile", "Input should be 'airboss'"),
        ('[service.a.metrics]\n\nprofile = "x"\n', ":3: service.a.metrics.profile", "Input should be 'airboss'"),
        (
            '[service.a.metrics]\ntracks = { green = "x" }\n',
            ":2: service.a.metrics.tracks",
            "'stable', 'canary' or 'baseline'",
        ),
        ('[service.a.metrics]\nlabels = { job = "~(" }\n', ":2: service.a.metrics.labels", "no regular expression"),
        ("[service.a.metrics]\nbogus = 1\n", ":2: service.a.metrics.bogus", "allowed: profile, labels, track_label"),
        ('[metrics.environment.x]\nprofile = "istio"\n', "metrics.environment.x", "no [environment.x]"),
        (
            '[metrics]\nurl = "http://p"\nprofile = "istio"\n[service.a]\n[environment.dev]\n',
            "service.a.metrics",
            'labels = { destination_service_namespace = "…" }',
        ),
        (
            '[metrics]\nurl = "http://p"\n[service.a.metrics]\nslow = "1s"\n[environment.dev]\n',
            "service.a.metrics",
            'profile "airboss" (in dev) has its own',
        ),
        ("a = [\n", "airboss.toml", "not valid TOML"),
    ],
)
def test_an_error_names_line_field_and_what_is_allowed(source: str, where: str, what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(source, HERE)
    assert where in caught.value.message
    assert what in caught.value.message
    assert caught.value.exit is ExitCode.USAGE


def test_a_directory_without_the_file_is_no_workspace(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not an Airboss workspace"):
        load_config(tmp_path)


def test_a_file_that_is_no_text_is_said(tmp_path: Path) -> None:
    (tmp_path / "airboss.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)


def test_an_empty_file_has_the_defaults() -> None:
    config = parse_config("", HERE)
    assert config == Config()
    assert [(step.kind, getattr(step, step.kind)) for step in config.policy["careful"].steps] == [
        ("mirror", 5), ("weight", 5), ("weight", 25), ("weight", 50), ("weight", 100)
    ]  # fmt: skip


@given(st.integers(0, 59), st.integers(0, 59), st.integers(0, 99))
def test_durations_add_up(hours: int, minutes: int, seconds: int) -> None:
    assert parse_duration(f"{hours}h{minutes}m{seconds}s") == hours * 3600 + minutes * 60 + seconds


@given(st.text(max_size=20))
def test_a_duration_is_understood_or_refused_and_never_crashes(text: str) -> None:
    try:
        seconds = parse_duration(text)
    except ValueError as error:
        said = str(error)
    else:
        said = "a duration"
        assert seconds >= 0
    assert "duration" in said
