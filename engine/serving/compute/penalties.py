"""Moving logits by what was said already: OpenAI's presence and frequency penalties, CTRL's repetition penalty, biases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from engine.serving.request import SamplingParams


def adjusted(logits: Tensor, rows: Sequence[tuple[SamplingParams, Sequence[int], Sequence[int]]]) -> Tensor:
    """logits [B,V] moved by each row's (parameters, prompt, answer so far). The same tensor when no row asks for it.

    Repetition divides a positive logit and multiplies a negative one, of every token of prompt and answer (Keskar et al.
    2019, §4.1). Then frequency is subtracted once for each time a token was generated, presence once if it was at all
    (OpenAI's API reference); last comes the bias.
    """
    touched = [index for index, (params, _, _) in enumerate(rows) if asks_for_it(params)]
    if not touched:
        return logits
    moved = logits.clone()
    for index in touched:
        params, prompt, answer = rows[index]
        row = moved[index]
        if params.repetition_penalty != 1.0:
            seen = _ids({*prompt, *answer}, row)
            old = row[seen]
            row[seen] = torch.where(old > 0, old / params.repetition_penalty, old * params.repetition_penalty)
        if answer and (params.presence_penalty or params.frequency_penalty):
            counts = Counter(answer)
            often = torch.tensor(list(counts.values()), dtype=row.dtype).to(row.device)
            row[_ids(counts, row)] -= often * params.frequency_penalty + params.presence_penalty
        if params.logit_bias:
            row[_ids(params.logit_bias, row)] += torch.tensor(list(params.logit_bias.values()), dtype=row.dtype).to(
                row.device
            )
    # A tiny repetition penalty makes logits infinite, and between two infinities nothing can be drawn.
    limit = torch.finfo(moved.dtype).max
    return moved.clamp_(-limit, limit)


def asks_for_it(params: SamplingParams) -> bool:
    """Whether the parameters move logits at all."""
    return bool(
        params.repetition_penalty != 1.0 or params.presence_penalty or params.frequency_penalty or params.logit_bias
    )


def _ids(tokens: Iterable[int], like: Tensor) -> Tensor:
    return torch.tensor(list(tokens), dtype=torch.int64).to(like.device)
