"""The built-in pipeline fits its stages."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from typing import Any

import pytest

from engine.pipelines.charlm import PARAMS, STAGES, charlm
from engine.pipelines.stages.settings import Settings
from state.words import UsageError


def settings_of_stage(stage: str) -> type[Settings]:
    module = importlib.import_module(f"engine.pipelines.stages.{stage}")
    kinds = [
        kind
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, Settings) and kind is not Settings
    ]
    assert len(kinds) == 1
    return kinds[0]


@pytest.mark.parametrize("stage", [spec.name for spec in STAGES])
def test_each_stage_is_given_exactly_its_settings_and_their_defaults(stage: str) -> None:
    kind = settings_of_stage(stage)
    given = charlm("charlm", {}).stage_params(stage)
    assert given == kind().model_dump()


@pytest.mark.parametrize("stage", [spec.name for spec in STAGES])
def test_entries_are_functions(stage: str) -> None:
    module, _, name = charlm("charlm", {}).stage(stage).entry.partition(":")
    assert callable(getattr(importlib.import_module(module), name))


def test_configuration_reaches_the_stages() -> None:
    params: dict[str, Any] = {"train": {"steps": 900}, "model.n_layer": 2, "release": {"serving": {"max_batch": 4}}}
    pipeline = charlm("chat-lm", params).with_values({"release.weights_from": "chat-lm-3", "train.seed": "7"})
    train = pipeline.stage_params("train")
    assert (train["steps"], train["n_layer"], train["seed"], train["weights_from"]) == (900, 2, 7, "chat-lm-3")
    assert pipeline.stage_params("register") == {"serving": {"max_batch": 4}}
    with pytest.raises(UsageError, match=r"did you mean train\.steps"):
        charlm("charlm", {"train.step": 1})


def test_every_parameter_is_explained() -> None:
    assert all(param.help for param in PARAMS)


def test_planning_imports_no_torch() -> None:
    code = "import sys, engine.pipelines.charlm, engine.pipelines.runner; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
