"""Training itself: a small GPT on text, its curve and its marks. Apart from the stage's door, which torch does not slow down."""

from __future__ import annotations

import os
import shutil
import string
import time
from typing import Any

import torch

from engine.pipelines.stage import StageContext
from engine.pipelines.stages.answers import continue_texts
from engine.pipelines.stages.corpus import HELDOUT, TRAIN
from engine.pipelines.stages.environment import environment_facts, has_fast_bfloat16, usable_cores
from engine.pipelines.stages.model_files import save_model, save_weights
from engine.pipelines.stages.outputs import MODEL
from engine.pipelines.stages.scoring import bits, model_nats
from engine.pipelines.stages.train_settings import TrainSettings
from engine.pipelines.stages.trainer import LossCurve, Progress, Recipe, repeatable, shards_of, train
from engine.serving.bundle import WEIGHTS_NAME
from engine.serving.loader import default_device
from engine.serving.models.gpt import GPT, GPTConfig
from engine.serving.tokenizer import CharTokenizer
from state.words import UsageError

PRINTABLE = string.printable[:95] + "\n\t"
"""In every vocabulary, so that any prompt of ASCII encodes, whatever the training text was."""
BASE_LR = 6e-3
"""The best of a sweep for 128 channels; wider models get less, in proportion (Yang et al. 2021, table 8)."""
BASE_WIDTH = 128
CURVE_POINTS = 200
SHOWN_POINTS = 24
"""Of the curve in a progress line: enough for a sparkline."""
MEASURED_CHARS = 4_096
"""How much held-out text a mark is measured on: progress, not evidence."""
SAMPLE_PROMPT = "The "


def train_model(
    ctx: StageContext, settings: TrainSettings, texts: dict[str, str], dataset: dict[str, Any]
) -> dict[str, Any]:
    """Train and save the model; returns what is written down about it."""
    device = default_device()
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS is not repeatable
    recipe = _recipe(settings, device)
    tokenizer = CharTokenizer.train(texts[TRAIN] + PRINTABLE)
    config = _config(settings, tokenizer)
    began = time.monotonic()
    with repeatable(recipe.seed):
        model = GPT(config).to(device)
        report = _Report(ctx, recipe, model, tokenizer, texts[HELDOUT][:MEASURED_CHARS])
        curve = train(model, torch.tensor(tokenizer.encode(texts[TRAIN])), recipe, report)
    shutil.rmtree(ctx.out_dir / "checkpoint", ignore_errors=True)
    if curve.is_finite:
        save_model(model.eval(), tokenizer, ctx.out_dir / MODEL)
    seconds = time.monotonic() - began
    done = len(curve.losses)
    return {
        "architecture": config.to_json(),
        "parameters": model.parameter_count(),
        "recipe": {
            **settings.model_dump(exclude={"weights_from", "threads", "dtype", "lr"}),
            "lr": recipe.lr,
            "optimizer": "AdamW",
            "schedule": "warm-up, cosine",
        },
        "seed": recipe.seed,
        "steps": done,
        "tokens": done * recipe.batch * config.block_size,
        "threads": recipe.shards,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "dtype": str(recipe.dtype).removeprefix("torch."),
        "seconds": round(seconds, 3),
        "tokens_per_s": round(done * recipe.batch * config.block_size / seconds, 1),
        "loss": curve.smoothed()[-1] if curve.is_finite else None,
        "loss_divergence": curve.divergence(),
        "loss_drop": curve.drop(),
        "loss_curve": _thinned(curve),
        "marks": report.marks,
        "dataset": dataset,
        "environment": environment_facts(),
        "weights_from": None,
    }


class _Report:
    """Turns the loop's reports into the stage's progress; at a mark it measures, writes a sample and a checkpoint."""

    def __init__(self, ctx: StageContext, recipe: Recipe, model: GPT, tokenizer: CharTokenizer, heldout: str) -> None:
        self._ctx, self._recipe, self._model, self._tokenizer, self._heldout = ctx, recipe, model, tokenizer, heldout
        self._points: list[str] = []
        self.marks: list[dict[str, Any]] = []
        (ctx.out_dir / "checkpoint").mkdir()

    def __call__(self, progress: Progress) -> None:
        self._points.append(f"{progress.step}:{progress.loss:.3f}")
        if progress.is_mark:
            self._mark(progress)
        last = self.marks[-1] if self.marks else {}
        self._ctx.progress(
            step=progress.step,
            steps=self._recipe.steps,
            loss=round(progress.loss, 4),
            lr=progress.lr,
            tokens_per_s=round(progress.tokens_per_s),
            eta_s=round(progress.eta_s, 1),
            loss_curve=" ".join(self._points[:: -(-len(self._points) // SHOWN_POINTS)]),
            **{name: value for name, value in last.items() if name != "step" and value is not None},
        )

    def _mark(self, progress: Progress) -> None:
        self._model.eval()
        heldout = bits(model_nats(self._model, self._tokenizer, self._heldout))
        (sample,) = continue_texts(self._model, self._tokenizer, [SAMPLE_PROMPT], 60)
        self._model.train()
        self.marks.append({"step": progress.step, "heldout_bpc": heldout, "sample": SAMPLE_PROMPT + sample})
        save_weights(self._model, self._ctx.out_dir / "checkpoint" / WEIGHTS_NAME)


def _recipe(settings: TrainSettings, device: torch.device) -> Recipe:
    if settings.dtype == "auto":
        fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else has_fast_bfloat16()
        dtype = torch.bfloat16 if fast else torch.float32
    else:
        dtype = getattr(torch, settings.dtype)
    return Recipe(
        steps=settings.steps,
        batch=settings.batch,
        lr=settings.lr or BASE_LR * min(1.0, BASE_WIDTH / settings.n_embd),
        warmup_steps=min(settings.warmup_steps, settings.steps // 4),
        seed=settings.seed,
        dtype=dtype,
        device=device,
        shards=1 if device.type == "cuda" else shards_of(settings.batch, settings.threads or usable_cores()),
    )


def _config(settings: TrainSettings, tokenizer: CharTokenizer) -> GPTConfig:
    try:
        return GPTConfig(
            n_layer=settings.n_layer,
            n_head=settings.n_head,
            n_embd=settings.n_embd,
            block_size=settings.block_size,
            vocab_size=tokenizer.vocab_size,
        )
    except ValueError as error:
        raise UsageError(
            f"the model cannot have this shape: {error}", hint="change model.n_embd or model.n_head"
        ) from error


def _thinned(curve: LossCurve) -> list[list[float]]:
    """At most CURVE_POINTS [step, loss] pairs, each the mean of its stretch; a loss that is no number is left out."""
    losses = curve.losses if curve.is_finite else curve.losses[:-1]
    width = max(1, -(-len(losses) // CURVE_POINTS))
    stretches = ((i, losses[i : i + width]) for i in range(0, len(losses), width))
    return [[i + len(part), round(sum(part) / len(part), 5)] for i, part in stretches]
