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
    """-ln p of each character of `text` but the first, float64 [len(text) - 1]; the same for any number of threads.

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
        parts = list(pool.map(lambda window: _nats(model, *window), windows))
    return np.concatenate(parts) if parts else np.zeros(0)


def _nats(model: GPT, given: torch.Tensor, wanted: torch.Tensor) -> Nats:
    """Surprise at `wanted` int64 [B,T] after `given` int64 [B,T], flattened in order."""
    with torch.no_grad():
        logits = model(given).float()
        nats = functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none")
    found: Nats = nats.double().cpu().numpy()
    return found


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
