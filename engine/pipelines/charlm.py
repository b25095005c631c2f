"""The built-in pipeline: a character-level GPT on text of one's own. Its parameters are the stages' own settings.

Imports no stage: the engine must not load torch to plan a run. A test holds names and defaults to the stages' settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.pipelines.spec import Param, Pipeline, StageSpec

_STAGES = "engine.pipelines.stages"
_MINUTE_S = 60.0
_HOUR_S = 3600.0

PARAMS = (
    Param(
        "collect.text", None, "str", nullable=True, help="file or folder of text; null: the interpreter's help topics"
    ),
    Param("collect.also", None, "str", nullable=True, help="more text beside it: a file or folder, a built data set"),
    Param("collect.max_bytes", 64_000_000, "int", minimum=1, help="refuse more text than this"),
    Param("snapshot.heldout_pct", 10, "int", minimum=1, help="percent of paragraphs that no model is trained on"),
    Param("validate.max_missing_rate", 0.01, "float", minimum=0, help="gate: share of records without text"),
    Param("validate.max_outlier_rate", 0.005, "float", minimum=0, help="gate: share of records that are no prose"),
    Param("validate.max_duplicate_rate", 0.5, "float", minimum=0, help="warning: share of records seen before"),
    Param("validate.min_chars", 5_000, "int", minimum=1, help="gate: characters to train on"),
    Param("validate.min_heldout_chars", 500, "int", minimum=1, help="gate: characters held out"),
    Param("train.steps", 600, "int", minimum=1, help="optimiser steps"),
    Param("train.batch", 32, "int", minimum=1, help="sequences a step"),
    Param("train.lr", None, "float", minimum=0, nullable=True, help="highest learning rate; null fits the width"),
    Param("train.warmup_steps", 50, "int", minimum=0, help="steps until the highest rate"),
    Param("train.seed", 1337, "int", minimum=0, help="the same seed makes the same weights"),
    Param("train.threads", 0, "int", minimum=0, help="processor threads; 0 is every core"),
    Param("train.dtype", "auto", "str", help="auto, float32 or bfloat16"),
    Param("model.n_layer", 4, "int", to=("train.n_layer",), minimum=1, help="blocks"),
    Param("model.n_head", 4, "int", to=("train.n_head",), minimum=1, help="attention heads a block"),
    Param("model.n_embd", 128, "int", to=("train.n_embd",), minimum=1, help="channels"),
    Param("model.block_size", 64, "int", to=("train.block_size",), minimum=2, help="context in characters"),
    Param("evaluate.batches", 64, "int", minimum=1, help="batches of held-out text"),
    Param("evaluate.resamples", 2_000, "int", minimum=100, help="bootstrap resamples"),
    Param("evaluate.confidence", 0.95, "float", minimum=0.5, help="of the interval that the gate looks at"),
    Param("evaluate.margin_bpc", 0.0, "float", minimum=0, help="bits a character a release may be worse"),
    Param("evaluate.max_prompt_failures", 5, "int", minimum=0, help="gate: fixed prompts with faulty answers"),
    Param("evaluate.min_similarity", 0.1, "float", minimum=0, help="warning: likeness to the baseline's answers"),
    Param("evaluate.threads", 0, "int", minimum=0, help="processor threads; 0 is every core"),
    Param("release.serving", {}, "table", to=("register.serving",), help="serving configuration, faults included"),
    Param(
        "release.weights_from",
        None,
        "str",
        to=("train.weights_from",),
        nullable=True,
        help="release to take weights of",
    ),
)

STAGES = (
    StageSpec("collect", f"{_STAGES}.collect:run", timeout_s=10 * _MINUTE_S, sources=("text", "also")),
    StageSpec("snapshot", f"{_STAGES}.snapshot:run", ("collect",), timeout_s=10 * _MINUTE_S),
    StageSpec(
        "validate",
        f"{_STAGES}.validate:run",
        ("snapshot",),
        timeout_s=30 * _MINUTE_S,
        required_gates=("schema_errors", "missing_rate", "outlier_rate", "unredacted"),
    ),
    StageSpec(
        "train",
        f"{_STAGES}.train:run",
        ("validate",),
        timeout_s=12 * _HOUR_S,
        required_gates=("loss_divergence", "loss_drop"),
    ),
    StageSpec(
        "evaluate",
        f"{_STAGES}.evaluate:run",
        ("validate", "train"),
        timeout_s=_HOUR_S,
        reads=("baseline",),
        required_gates=("heldout_vs_baseline", "prompt_failures"),
    ),
    StageSpec(
        "register",
        f"{_STAGES}.register:run",
        ("validate", "train", "evaluate"),
        timeout_s=10 * _MINUTE_S,
        retries=4,
        backoff_s=2.0,
        cached=False,
        uses_registry=True,
    ),
    StageSpec(
        "release",
        f"{_STAGES}.release:run",
        ("validate", "train", "evaluate", "register"),
        timeout_s=10 * _MINUTE_S,
        cached=False,
        makes_release=True,
    ),
)


def charlm(name: str, params: Mapping[str, Any]) -> Pipeline:
    """The pipeline `name` with the parameters of `[pipeline.NAME]`. Raises UsageError for one that does not exist."""
    return Pipeline(name, STAGES, PARAMS).with_values(params)
