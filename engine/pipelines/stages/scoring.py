"""How well a model knows a text: its surprise at each character, and whether one model's is smaller beyond chance."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from engine.pipelines.stages.text_statistics import Unigram
from engine.serving.models.gpt import GPT
from engine.serving.tokenizer import CharTokenizer

SEGMENT = 64
"""Characters drawn together by the bootstrap: neighbours share their context, so they are not independent."""

Nats = NDArray[np.float64]


def model_nats(model: GPT, tokenizer: CharTokenizer, text: str, batch: int = 64, threads: int = 1) -> Nats:
    """-ln p of each character of `text` but the first, float64 [len(text) - 1]; the same for any number of threads."""
    return model_scores(model, tokenizer, text, batch, threads)[0]


def model_scores(
    model: GPT, tokenizer: CharTokenizer, text: str, batch: int = 64, threads: int = 1
) -> tuple[Nats, Nats]:
    """`model_nats`, and 1 for each character that the model held the likeliest, else 0; both [len(text) - 1].

    The text is read in windows of the model's context that do not overlap, so a character has between 1 and
    block_size characters before it: every model is scored on the same characters, whatever its context.
    """
    tokens = torch.tensor(tokenizer.encode(text), device=model.token_embedding.weight.device)
    block = model.config.block_size
    whole = max(0, (len(tokens) - 1) // block)
    windows = [
        (
            tokens[first * block : last * block].view(-1, block),
            tokens[first * block + 1 : last * block + 1].view(-1, block),
        )
        for first in range(0, whole, batch)
        if (last := min(first + batch, whole))
    ]
    if len(tokens) - 1 > whole * block:
        windows.append((tokens[None, whole * block : -1], tokens[None, whole * block + 1 :]))
    with ThreadPoolExecutor(threads, "score", torch.set_num_threads, (1,)) as pool:
        parts = list(pool.map(lambda window: _scores(model, *window), windows))
    if not parts:
        return np.zeros(0), np.zeros(0)
    return np.concatenate([nats for nats, _ in parts]), np.concatenate([hits for _, hits in parts])


def _scores(model: GPT, given: torch.Tensor, wanted: torch.Tensor) -> tuple[Nats, Nats]:
    """Surprise at `wanted` int64 [B,T] after `given` int64 [B,T], and whether it was the likeliest, flattened in order."""
    with torch.no_grad():
        logits = model(given).float().flatten(0, 1)
        nats = functional.cross_entropy(logits, wanted.flatten(), reduction="none")
        hits = logits.argmax(-1) == wanted.flatten()
    return nats.double().cpu().numpy(), hits.double().cpu().numpy()


def pieces(values: Nats, most: int = 512) -> list[float]:
    """The means of `values` [chars] over consecutive pieces of whole segments, at most `most` of them: what two releases that
    read one text are compared by later.
    """
    segments = len(values) // SEGMENT
    width = SEGMENT * max(1, -(-segments // most))
    count = len(values) // width
    return (
        [round(float(mean), 5) for mean in values[: count * width].reshape(count, width).mean(axis=1)] if count else []
    )


def unigram_nats(unigram: Unigram, text: str) -> Nats:
    """-ln p of each character of `text` but the first, by its frequency alone."""
    return np.array([unigram.nats(char) for char in text[1:]], dtype=np.float64)


def bits(nats: Nats) -> float | None:
    """The mean in bits a character; None for an empty text."""
    return float(nats.mean()) / math.log(2) if len(nats) else None


@dataclass(frozen=True, slots=True)
class Difference:
    """Candidate less baseline in bits a character, with a bootstrap interval; negative means the candidate is better."""

    mean: float
    low: float
    high: float
    segments: int

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"mean": self.mean, "low": self.low, "high": self.high, "segments": self.segments}


def compare(candidate: Nats, baseline: Nats, *, resamples: int, confidence: float, seed: int = 0) -> Difference | None:
    """The paired difference on the same characters, by a percentile bootstrap over segments (Efron 1979; Koehn 2004).

    Both arrays are [chars]. Returns None when there are fewer than two segments: nothing to draw from.
    """
    if candidate.shape != baseline.shape:
        raise ValueError(f"the two models were scored on different texts: {candidate.shape} and {baseline.shape}")
    paired = (candidate - baseline) / math.log(2)
    segments = len(paired) // SEGMENT
    if segments < 2:
        return None
    means = paired[: segments * SEGMENT].reshape(segments, SEGMENT).mean(axis=1)
    draws = np.random.default_rng(seed).integers(0, segments, size=(resamples, segments))
    drawn = means[draws].mean(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Difference(float(paired.mean()), float(low), float(high), segments)
