"""The four acts with a tiny model: make, launch, advance, recover."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from console.demo.workspace import CLEAN_REQUESTS_TO_PASS, config_text
from engine.rollouts.judge import requests_to_pass
from state.config import parse_config

Play = Callable[..., dict[str, Any]]


@pytest.mark.timeout(280)
def test_four_acts_make_launch_advance_and_recover(demo_root: Path, play: Play) -> None:
    document = play()
    make, launch, advance, recover = document["acts"]
    assert list(make["run"]["stages"]) == [
        "collect",
        "snapshot",
        "validate",
        "train",
        "evaluate",
        "register",
        "release",
    ]
    assert launch["aliases"]["champion"] == "1"
    assert advance["is_better"]
    assert advance["aliases"]["champion"] == "2"
    assert advance["aliases"]["previous-champion"] == "1"
    assert [s["verdict"] for s in advance["rollout"]["steps"]] == ["PASS"] * 4
    assert recover["rollout"]["state"] == "rolled_back"
    assert recover["aliases"]["champion"] == "2"
    assert recover["live"] == advance["release"]["id"]
    assert document["requests"]["stable_failed"] == 0
    assert document["requests"]["answered"] > 300
    assert document["audit"]["ok"]
    lineage = json.dumps(document["lineage"])
    assert advance["release"]["id"] in lineage
    assert make["release"]["dataset"] in lineage
    assert not list((demo_root / ".airboss" / "run").glob("*.lock")), "everything that was started has ended"


def test_the_arithmetic_beside_the_policy_is_the_judges_own() -> None:
    config = parse_config(config_text(text=None, cut_evidence=False, params={}), Path("airboss.toml"))
    judge, slo = config.policy["demo"].judge, config.service["chat"].slo
    assert requests_to_pass(slo.error_limit, judge.alpha / 2, 0) == CLEAN_REQUESTS_TO_PASS
    assert requests_to_pass(slo.slow_limit, judge.alpha / 2, 0) == CLEAN_REQUESTS_TO_PASS
