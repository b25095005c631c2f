"""The four acts with a tiny model, and the two that keep them honest: without the fault, and without evidence."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from console.demo.play import DemoWish, play_demo
from console.demo.workspace import CLEAN_REQUESTS_TO_PASS, config_text
from engine.rollouts.judge import requests_to_pass
from state.config import parse_config

TINY = (
    ("model.n_layer", 1),
    ("model.n_head", 2),
    ("model.n_embd", 32),
    ("evaluate.batches", 8),
    ("evaluate.resamples", 200),
    ("evaluate.max_prompt_failures", 10),
)


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Path]:
    root = tmp_path / "demo"
    yield root
    for identity in (root / ".airboss" / "run").glob("*.json"):
        body = json.loads(identity.read_text(encoding="utf-8"))
        if "start_ticks" in body and Path(f"/proc/{body['pid']}").exists():
            os.killpg(body["pid"], signal.SIGKILL)


def play(root: Path, **more: Any) -> dict[str, Any]:
    document = play_demo(DemoWish(root, first_steps=30, second_steps=150, params=TINY, rps=60.0, **more))
    assert document["ok"], json.dumps({k: document[k] for k in ("acts", "requests", "audit")}, indent=1)
    return document


@pytest.mark.timeout(240)
def test_four_acts_make_launch_advance_and_recover(workspace: Path) -> None:
    document = play(workspace)
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
    assert not list((workspace / ".airboss" / "run").glob("*.lock")), "everything that was started has ended"


@pytest.mark.timeout(240)
def test_the_same_demo_without_the_fault_is_not_rolled_back(workspace: Path) -> None:
    document = play(workspace, fault=False)
    assert document["acts"][3]["rollout"]["state"] == "completed"


@pytest.mark.timeout(240)
def test_with_the_judges_data_cut_off_it_pauses_and_never_passes(workspace: Path) -> None:
    document = play(workspace, cut_evidence=True)
    rollout = document["acts"][2]["rollout"]
    assert rollout["state"] == "paused"
    assert {step["verdict"] for step in rollout["steps"]} <= {"NO_DATA", "INCONCLUSIVE", None}


def test_the_arithmetic_beside_the_policy_is_the_judges_own() -> None:
    config = parse_config(config_text(text=None, cut_evidence=False, params={}), Path("airboss.toml"))
    judge, slo = config.policy["demo"].judge, config.service["chat"].slo
    assert requests_to_pass(slo.error_limit, judge.alpha / 2, 0) == CLEAN_REQUESTS_TO_PASS
    assert requests_to_pass(slo.slow_limit, judge.alpha / 2, 0) == CLEAN_REQUESTS_TO_PASS
