"""Stage `train`: a small GPT on the clean text, or the weights of an earlier release taken over.

Writes `model/` (model.safetensors, config.json, tokenizer.json) and `training.json`: recipe, environment, curve. While
it runs, `checkpoint/` holds the weights of the last mark; it is gone when the stage is done.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.pipelines.stage import Gate, StageContext, StageResult
from engine.pipelines.stages import validate
from engine.pipelines.stages.corpus import HELDOUT, TRAIN
from engine.pipelines.stages.outputs import TRAINING
from engine.pipelines.stages.settings import read_facts, settings_of, write_facts
from engine.pipelines.stages.train_settings import TrainSettings
from engine.pipelines.stages.weights_from import copy_release
from state.words import UsageError

MAX_DIVERGENCE = 1.25


def run(ctx: StageContext) -> StageResult:
    """Train, or take over the weights of the release `weights_from`."""
    settings = settings_of(TrainSettings, ctx)
    if settings.weights_from is not None:
        training = copy_release(settings.weights_from, Path(str(ctx.context.get("workspace") or ".")), ctx.out_dir)
        ctx.progress(copied=settings.weights_from)
        return _result(training, copied=True)
    data = ctx.inputs["validate"]
    texts = {split: (data / validate.DATA / f"{split}.txt").read_text(encoding="utf-8") for split in (TRAIN, HELDOUT)}
    if len(texts[TRAIN]) <= settings.block_size:
        raise UsageError(
            f"the training text has {len(texts[TRAIN])} characters, the model's context {settings.block_size}",
            hint="train on more text, or with a smaller model.block_size",
        )
    dataset = validate.dataset_facts(read_facts(data / validate.MANIFEST))
    from engine.pipelines.stages.training import train_model  # torch: weights that are taken over do without

    training = train_model(ctx, settings, texts, dataset)
    write_facts(ctx.out_dir / TRAINING, training)
    return _result(training, copied=False)


def warm(params: Mapping[str, Any]) -> None:
    """Import what a training with `params` needs."""
    if params.get("weights_from") is None:
        import engine.pipelines.stages.training  # noqa: F401


def _result(training: dict[str, Any], *, copied: bool) -> StageResult:
    divergence, drop = training.get("loss_divergence"), training.get("loss_drop")
    shown = {name: training.get(name) for name in ("loss", "steps", "seconds", "tokens_per_s", "parameters")}
    return StageResult(
        metrics={**{name: value for name, value in shown.items() if value is not None}, "copied": int(copied)},
        gates=(
            Gate("loss_divergence", divergence, MAX_DIVERGENCE, "<="),
            Gate("loss_drop", drop, 1.0, "<"),
        ),
        facts={"training": training},
    )
