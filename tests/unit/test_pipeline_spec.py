"""Pipelines as values: parameters, overrides, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine.pipelines.spec import Param, Pipeline, StageSpec
from state.words import UsageError


def pipeline() -> Pipeline:
    return Pipeline(
        "toy",
        (
            StageSpec("data", "toy.data:run", params={"fixed": 1}),
            StageSpec("train", "toy.train:run", ("data",)),
            StageSpec("report", "toy.report:run", ("data",)),
            StageSpec("release", "toy.release:run", ("train",)),
        ),
        (
            Param("data.text", None, "str", nullable=True),
            Param("train.steps", 600, "int", minimum=1),
            Param("train.lr", 0.001, "float"),
            Param("train.compile", False, "bool"),
            Param("model.layers", 4, "int", to=("train.layers", "release.layers")),
            Param("release.serving", {}, "table"),
        ),
    )


def test_parameters_reach_the_stages_they_are_for() -> None:
    changed = pipeline().with_values({"train.steps": "900", "model.layers": 2})
    assert changed.stage_params("train") == {"steps": 900, "lr": 0.001, "compile": False, "layers": 2}
    assert changed.stage_params("release") == {"layers": 2, "serving": {}}
    assert changed.stage_params("data") == {"fixed": 1, "text": None}


def test_tables_and_dotted_names_mean_the_same() -> None:
    nested = pipeline().with_values({"train": {"steps": 5}, "release": {"serving": {"max_batch": 4}}})
    dotted = pipeline().with_values({"train.steps": "5", "release.serving": '{"max_batch": 4}'})
    deeper = pipeline().with_values({"train.steps": 5, "release.serving.max_batch": "4"})
    assert nested.values == dotted.values == deeper.values


def test_setting_inside_a_table_keeps_the_rest_of_it() -> None:
    first = pipeline().with_values({"release.serving": {"max_batch": 4, "fault": {"latency_ms": 900}}})
    second = first.with_values({"release.serving.fault.error_rate": "0.3", "release.serving.dtype": "float32"})
    assert second.values["release.serving"] == {
        "max_batch": 4,
        "dtype": "float32",
        "fault": {"latency_ms": 900, "error_rate": 0.3},
    }


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("train.steps", "many", "must be a whole number"),
        ("train.steps", 1.5, "must be a whole number"),
        ("train.steps", True, "must be a whole number"),
        ("train.steps", None, "must be a whole number"),
        ("train.steps", 0, "at least 1"),
        ("train.lr", "nan", "must be a number"),
        ("train.lr", "", "must be a number"),
        ("train.compile", "yes", "must be true or false"),
        ("train.compile", 1, "must be true or false"),
        ("data.text", 7, "must be a text or null"),
        ("release.serving", "[1]", "must be a JSON object"),
        ("release.serving", "{", "must be a JSON object"),
    ],
)
def test_value_of_the_wrong_type_is_refused_by_name(name: str, value: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says) as refused:
        pipeline().with_values({name: value})
    assert name in refused.value.message


@pytest.mark.parametrize("value", [{"latency_ms": float("nan")}, {"when": object()}])
def test_value_that_could_not_be_kept_is_refused(value: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="cannot be kept"):
        pipeline().with_values({"release.serving": value})


@pytest.mark.parametrize("values", [{"train.step": 1}, {"train": {"step": 1}}, {"nonsense": 1}, {"train": 1}])
def test_unknown_parameter_is_refused_with_those_there_are(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="has no parameter") as refused:
        pipeline().with_values(values)
    assert "train.steps" in refused.value.hint


def test_null_is_a_value_only_where_it_may_be() -> None:
    assert pipeline().with_values({"data.text": "a.txt"}).with_values({"data.text": "null"}).values["data.text"] is None


def test_pipeline_survives_json() -> None:
    before = pipeline().with_values({"train.steps": 7})
    assert Pipeline.from_json(json.loads(json.dumps(before.to_json()))) == before


def test_downstream_follows_needs_only() -> None:
    assert pipeline().downstream("train") == {"train", "release"}
    assert pipeline().downstream("data") == {"data", "train", "report", "release"}


@pytest.mark.parametrize(
    "stages",
    [
        (StageSpec("a", "m:f", ("b",)), StageSpec("b", "m:f")),
        (StageSpec("a", "m:f"), StageSpec("a", "m:f")),
        (StageSpec("a", "no function"),),
        (StageSpec("../a", "m:f"),),
    ],
)
def test_stages_that_cannot_be_ordered_or_named_are_refused(stages: tuple[StageSpec, ...]) -> None:
    with pytest.raises(UsageError):
        Pipeline("toy", stages)
