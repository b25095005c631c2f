"""Choosing the next token of each row, each by its own parameters, all in one set of tensor operations.

A row brings its own random number in [0, 1), drawn from its own generator, and takes the token at that point of its
cumulative distribution (inverse transform sampling). So what a seed yields does not depend on the batch around it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.serving.request import SamplingParams


@torch.inference_mode()
def sample(logits: Tensor, params: Sequence[SamplingParams], draws: Sequence[float]) -> list[int | None]:
    """logits float32 [B,V], one SamplingParams and one draw a row -> B token ids.

    None stands for a row whose logits are not all finite: its model is broken, and any token would be made up.
    """
    finite = torch.isfinite(logits).all(dim=-1)
    chosen = logits.argmax(dim=-1)
    drawing = [index for index, row in enumerate(params) if row.temperature > 0.0]
    if drawing:
        rows = torch.tensor(drawing, device=logits.device)
        picked = _draw(logits.index_select(0, rows), [params[i] for i in drawing], [draws[i] for i in drawing])
        chosen = chosen.index_copy(0, rows, picked)
    return [token if ok else None for token, ok in zip(chosen.tolist(), finite.tolist(), strict=True)]


def _draw(logits: Tensor, params: Sequence[SamplingParams], draws: Sequence[float]) -> Tensor:
    """Token ids int64 [B] for rows with a temperature above 0: top-k first, then top-p on what is left."""
    vocabulary = logits.shape[-1]
    columns = [
        [row.temperature, row.top_k if 0 < row.top_k < vocabulary else vocabulary, row.top_p, draw]
        for row, draw in zip(params, draws, strict=True)
    ]
    table = torch.tensor(columns, dtype=torch.float64).to(logits.device)
    temperature, top_k, top_p, draw = (column[:, None] for column in table.unbind(1))
    # A stable sort makes equal logits fall in the same order in every batch.
    ordered, order = logits.double().sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(vocabulary, device=logits.device)
    ordered = (ordered / temperature).masked_fill(rank >= top_k, -torch.inf)
    probability = ordered.softmax(dim=-1)
    before = probability.cumsum(dim=-1) - probability
    probability = probability.masked_fill((before >= top_p) & (rank > 0), 0.0)
    cumulative = probability.cumsum(dim=-1)
    target = draw * cumulative[:, -1:]
    place = torch.searchsorted(cumulative, target, right=True)
    # A draw that rounds up to the whole sum must still land on a token that has probability; a row of NaN has none,
    # and its choice is thrown away by the caller.
    highest = ((probability > 0).sum(dim=-1, keepdim=True) - 1).clamp(min=0)
    return order.gather(1, torch.minimum(place, highest)).squeeze(1)
