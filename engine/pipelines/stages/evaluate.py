"""Stage `evaluate`: is the new model at least as good as the one before, beyond chance, and are its answers sane?

The baseline is the service's live release, scored again on the same held-out text, character by character; the first
release has to beat a unigram model of the training text. Writes `evaluation.json` and `answers.json`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field

from engine.pipelines.stage import Gate, StageContext, StageResult
from engine.pipelines.stages import validate
from engine.pipelines.stages.answers import Answer, answer_all, similarity
from engine.pipelines.stages.corpus import HELDOUT, TRAIN
from engine.pipelines.stages.environment import usable_cores
from engine.pipelines.stages.model_files import load_model
from engine.pipelines.stages.outputs import ANSWERS, EVALUATION, MODEL
from engine.pipelines.stages.prompt_set import prompt_facts
from engine.pipelines.stages.scoring import (
    Difference,
    Nats,
    bits,
    compare,
    model_nats,
    model_scores,
    pieces,
    unigram_nats,
)
from engine.pipelines.stages.settings import Settings, settings_of, write_facts
from engine.pipelines.stages.text_statistics import Unigram
from engine.pipelines.stages.trainer import repeatable
from engine.serving.loader import default_device, load_bundle
from engine.serving.models.gpt import GPT
from engine.serving.tokenizer import CharTokenizer
from state.digests import text_sha256
from state.words import AirbossError

UNIGRAM = "unigram"
BATCH_CHARS = 8_192
"""What one of `batches` stands for: the same text for every model, whatever its context."""


class EvaluateSettings(Settings):
    """`batches` of 8,192 characters bound the held-out text read; the rest are the gates' limits.

    Half of the prompts may fail: a small model answers an odd prompt with blanks, a broken one answers all of them so.
    """

    batches: int = Field(default=64, ge=1)
    resamples: int = Field(default=2_000, ge=100)
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    margin_bpc: float = Field(default=0.0, ge=0)
    max_prompt_failures: int = Field(default=5, ge=0)
    min_similarity: float = Field(default=0.1, ge=0, le=1)
    threads: int = Field(default=0, ge=0)


@dataclass(frozen=True, slots=True)
class Baseline:
    """What the candidate is held against. `trouble` says why there is none; then no gate on it passes."""

    name: str
    nats: Nats
    answers: tuple[Answer, ...] = ()
    trouble: str = ""


def run(ctx: StageContext) -> StageResult:
    """Score the candidate and its baseline on the same text, ask both the same prompts."""
    settings = settings_of(EvaluateSettings, ctx)
    data = ctx.inputs["validate"] / validate.DATA
    device = default_device()
    threads = settings.threads or usable_cores()
    with repeatable(0):
        model, tokenizer = load_model(ctx.inputs["train"] / MODEL, device)
        heldout = (data / f"{HELDOUT}.txt").read_text(encoding="utf-8")
        heldout = heldout[: settings.batches * BATCH_CHARS + 1]
        candidate, hits = model_scores(model, tokenizer, heldout, threads=threads)
        ctx.progress(scored="candidate", heldout_bpc=bits(candidate) or 0.0)
        answers = answer_all(model, tokenizer)
        known = ctx.context.get("baseline")
        if known:
            baseline = _release_baseline(known, heldout, device, threads)
        else:
            unigram = Unigram.train((data / f"{TRAIN}.txt").read_text(encoding="utf-8"), tokenizer.vocab_size)
            baseline = Baseline(UNIGRAM, unigram_nats(unigram, heldout))
        ctx.progress(scored=baseline.name)
    difference = None
    if not baseline.trouble:
        difference = compare(candidate, baseline.nats, resamples=settings.resamples, confidence=settings.confidence)
    similar = _similarity(answers, baseline.answers)
    report = _report(candidate, hits, baseline, difference, heldout, model, tokenizer, settings)
    report["prompt_faults"] = {answer.name: len(answer.faults) for answer in answers}
    write_facts(ctx.out_dir / EVALUATION, report)
    prompt = prompt_facts()
    write_facts(ctx.out_dir / ANSWERS, {"prompt": prompt["id"], "answers": [answer.to_json() for answer in answers]})
    failures = sum(1 for answer in answers if answer.faults)
    regressions = _regressions(answers, baseline.answers)
    measured = {
        "heldout_bpc": bits(candidate),
        "heldout_loss": float(candidate.mean()) if len(candidate) else None,
        "accuracy": float(hits.mean()) if len(hits) else None,
        "perplexity": float(np.exp(candidate.mean())) if len(candidate) else None,
        "baseline_bpc": bits(baseline.nats),
        "prompt_failures": float(failures),
        "prompt_similarity": similar,
        "prompt_regressions": regressions,
        **({f"bpc_difference{key}": getattr(difference, name) for key, name in _ENDS} if difference else {}),
    }
    return StageResult(
        metrics={name: value for name, value in measured.items() if value is not None},
        gates=(
            _against_baseline(baseline, difference, settings),
            *_prompt_gates(failures, regressions, similar, settings),
        ),
        facts={"evaluation": report, "prompt": prompt},
    )


_ENDS = (("", "mean"), ("_low", "low"), ("_high", "high"))


def _release_baseline(known: Mapping[str, Any], heldout: str, device: torch.device, threads: int) -> Baseline:
    """The live release, from its verified bundle. One that cannot be loaded is a trouble, never a pass."""
    name = str(known.get("release_id") or "baseline")
    try:
        loaded = load_bundle(Path(str(known.get("bundle_path"))), known.get("digest") or None)
    except AirbossError as error:
        return Baseline(name, np.zeros(0), trouble=error.message)
    if not isinstance(loaded.model, GPT) or not isinstance(loaded.tokenizer, CharTokenizer):
        return Baseline(
            name, np.zeros(0), trouble=f"{name} reads no characters: its loss is not comparable with this model's"
        )
    model = loaded.model.to(device=device, dtype=torch.float32)
    nats = model_nats(model, loaded.tokenizer, heldout, threads=threads)
    return Baseline(name, nats, answer_all(model, loaded.tokenizer))


def _against_baseline(baseline: Baseline, difference: Difference | None, settings: EvaluateSettings) -> Gate:
    """Beyond noise: the whole interval must not be worse than a release; it must be better than a unigram model."""
    if baseline.name == UNIGRAM:
        return Gate("heldout_vs_baseline", difference.high if difference else None, 0.0, "<")
    return Gate("heldout_vs_baseline", difference.low if difference else None, settings.margin_bpc, "<=")


def _prompt_gates(
    failures: int, regressions: int | None, similar: float | None, settings: EvaluateSettings
) -> list[Gate]:
    """Faulty answers refuse a model; ones that the baseline gave without fault, or quite differently, are warned of."""
    gates = [Gate("prompt_failures", failures, settings.max_prompt_failures, "<=")]
    if regressions is not None and similar is not None:
        gates.append(Gate("prompt_regressions", regressions, 0, "<=", blocking=False))
        gates.append(Gate("prompt_similarity", similar, settings.min_similarity, ">=", blocking=False))
    return gates


def _regressions(answers: Sequence[Answer], others: Sequence[Answer]) -> int | None:
    """How many prompts have a faulty answer now and had none from the baseline; None without a baseline's."""
    if not others:
        return None
    return sum(1 for one, other in zip(answers, others, strict=True) if one.faults and not other.faults)


def _similarity(answers: Sequence[Answer], others: Sequence[Answer]) -> float | None:
    """The mean likeness of answers to the same prompts; None without a baseline's."""
    if not others:
        return None
    return sum(similarity(one.text, other.text) for one, other in zip(answers, others, strict=True)) / len(answers)


def _report(
    candidate: Nats,
    hits: Nats,
    baseline: Baseline,
    difference: Difference | None,
    heldout: str,
    model: GPT,
    tokenizer: CharTokenizer,
    settings: EvaluateSettings,
) -> dict[str, Any]:
    known = set(tokenizer.chars)
    return {
        "heldout_chars": len(heldout),
        "heldout_bpc": bits(candidate),
        "unknown_chars": sum(1 for char in heldout if char not in known),
        "accuracy": float(hits.mean()) if len(hits) else None,
        "pieces": {
            "heldout_sha256": text_sha256(heldout),
            "bits": pieces(candidate / math.log(2)),
            "hits": pieces(hits),
        },
        "context_length": model.config.block_size,
        "baseline": {"name": baseline.name, "bpc": bits(baseline.nats), "trouble": baseline.trouble},
        "difference": difference.to_json() if difference else None,
        "confidence": settings.confidence,
        "resamples": settings.resamples,
    }
