"""Choosing the next token of each row, each by its own parameters.

A row brings its own random number in [0, 1), drawn from its own generator, and takes the token at that point of its
cumulative distribution (inverse transform sampling). What a seed yields does not depend on the batch around it: a row's
way through this file follows from its own parameters, and equal logits are always ranked by token id.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.serving.compute.penalties import adjusted
from engine.serving.request import SamplingParams, TokenLogprobs

_CANDIDATES = 256
"""How many of the likeliest tokens are ranked first; a row whose nucleus is wider is ranked whole."""


@dataclass(frozen=True, slots=True)
class Draw:
    """One row's wishes: its parameters, its random number, and what was said so far, for penalties."""

    params: SamplingParams
    uniform: float
    prompt: Sequence[int] = ()
    answer: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Chosen:
    """A row's next token. None: its logits are not all numbers, and any token would be made up."""

    token: int | None
    logprobs: TokenLogprobs | None = None


@torch.inference_mode()
def sample(logits: Tensor, draws: Sequence[Draw]) -> list[Chosen]:
    """logits float32 [B,V], one Draw a row -> B choices."""
    usable = torch.isfinite(logits.sum(dim=-1))
    moved = adjusted(logits, [(draw.params, draw.prompt, draw.answer) for draw in draws])
    tokens = moved.argmax(dim=-1)
    for rows, choose in _by_way(draws, logits.shape[-1]):
        index = torch.tensor(rows, device=logits.device)
        chosen = choose(moved.index_select(0, index), [draws[row] for row in rows])
        tokens = tokens.index_copy(0, index, chosen)
    # Asked for once: on a GPU every question waits for all that was computed before it.
    chosen_tokens = [None if token < 0 else token for token in tokens.masked_fill(~usable, -1).tolist()]
    wanted = [i for i, draw in enumerate(draws) if draw.params.logprobs is not None and chosen_tokens[i] is not None]
    told = _logprobs(logits, chosen_tokens, wanted, draws) if wanted else {}
    return [Chosen(token, told.get(row)) for row, token in enumerate(chosen_tokens)]


_Way = Callable[[Tensor, Sequence[Draw]], Tensor]


def _by_way(draws: Sequence[Draw], vocabulary: int) -> list[tuple[list[int], _Way]]:
    """(rows, how they are drawn) for each way that some row takes; greedy rows take none."""
    plain: list[int] = []
    ranks: list[int] = []
    for row, draw in enumerate(draws):
        params = draw.params
        if params.temperature > 0.0:
            is_plain = not 0 < params.top_k < vocabulary and params.top_p >= 1.0 and params.min_p <= 0.0
            (plain if is_plain else ranks).append(row)
    ways: list[tuple[list[int], _Way]] = [(plain, _draw_plain), (ranks, _draw_ranked)]
    return [(rows, way) for rows, way in ways if rows]


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).to(like.device)[:, None]


def _draw_plain(logits: Tensor, draws: Sequence[Draw]) -> Tensor:
    """Token ids int64 [B] from whole distributions: no ranking is needed, any fixed order of the tokens will do."""
    cumulative = _scaled(logits, draws).softmax(dim=-1).cumsum(dim=-1)
    return _at(cumulative, _column([draw.uniform for draw in draws], logits)).squeeze(1)


def _scaled(logits: Tensor, draws: Sequence[Draw]) -> Tensor:
    """Logits over temperatures, float64, the likeliest at 0: a temperature near 0 must not make two of them infinite."""
    double = logits.double()
    top = double.amax(dim=-1, keepdim=True)
    return (double - top) / _column([draw.params.temperature for draw in draws], logits)


def _draw_ranked(logits: Tensor, draws: Sequence[Draw]) -> Tensor:
    """Token ids int64 [B]: top-k first, then top-p and min-p on what is left."""
    vocabulary = logits.shape[-1]
    widest = max(draw.params.top_k for draw in draws)
    first = min(vocabulary, max(_CANDIDATES, widest))
    chosen, is_enough = _draw_among(logits, draws, first)
    rest = [row for row, enough in enumerate(is_enough) if not enough]
    if rest and first < vocabulary:
        index = torch.tensor(rest, device=logits.device)
        wider, _ = _draw_among(logits.index_select(0, index), [draws[row] for row in rest], vocabulary)
        chosen = chosen.index_copy(0, index, wider)
    return chosen


def _draw_among(logits: Tensor, draws: Sequence[Draw], count: int) -> tuple[Tensor, list[bool]]:
    """Draw among the `count` likeliest; also says for which rows that is sure to hold all they admit."""
    vocabulary = logits.shape[-1]
    ids = ranked(logits, count)
    rank = torch.arange(count, device=logits.device)
    params = [draw.params for draw in draws]
    top_k = _column([row.top_k if 0 < row.top_k < vocabulary else vocabulary for row in params], logits)
    scaled = _scaled(logits, draws)
    kept = scaled.gather(1, ids).masked_fill(rank >= top_k, -torch.inf)
    # With a top-k the share of a token is its share of the k; without, of the whole vocabulary.
    whole = torch.where(top_k <= count, kept.logsumexp(-1, keepdim=True), scaled.logsumexp(-1, keepdim=True))
    probability = (kept - whole).exp()
    before = probability.cumsum(dim=-1) - probability
    top_p = _column([row.top_p for row in params], logits)
    min_p = _column([row.min_p for row in params], logits)
    is_out = (before >= top_p) | (probability < min_p * probability[:, :1])
    is_enough = (is_out[:, -1:] | (top_k <= count) | (count == vocabulary)).squeeze(1).tolist()
    cumulative = probability.masked_fill(is_out & (rank > 0), 0.0).cumsum(dim=-1)
    place = _at(cumulative, _column([draw.uniform for draw in draws], logits))
    return ids.gather(1, place).squeeze(1), is_enough


def _at(cumulative: Tensor, uniform: Tensor) -> Tensor:
    """The place [B,1] whose share of each row's sum holds the row's number in [0, 1)."""
    place = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
    # A draw that rounds up to the whole sum must still land on a place that has a share.
    last = torch.searchsorted(cumulative, cumulative[:, -1:].contiguous(), right=False)
    return torch.minimum(place, last).clamp(max=cumulative.shape[-1] - 1)


def ranked(logits: Tensor, count: int) -> Tensor:
    """Ids int64 [B, count] of the largest logits float32 [B,V], the largest first, equal ones by id.

    Logits computed in bfloat16 have ties all the time, and a plain top-k breaks them as it pleases: so each gets a key
    of its own. A float's bits, read as an integer with the negative ones turned round, are ordered as the floats are.
    """
    vocabulary = logits.shape[-1]
    bits = logits.contiguous().view(torch.int32)
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(torch.int64)
    ids = torch.arange(vocabulary, device=logits.device)
    keys = ordered * vocabulary + (vocabulary - 1 - ids)
    top = keys.topk(count, dim=-1).values if count < vocabulary else keys.sort(dim=-1, descending=True).values
    return vocabulary - 1 - top.remainder(vocabulary)


def _logprobs(
    logits: Tensor, tokens: Sequence[int | None], rows: Sequence[int], draws: Sequence[Draw]
) -> dict[int, TokenLogprobs]:
    """What the model itself thought of the choices at `rows`."""
    said = logits[torch.tensor(rows, device=logits.device)].log_softmax(dim=-1)
    most = max(draws[row].params.logprobs or 0 for row in rows)
    best = ranked(said, min(most, said.shape[-1])) if most else None
    told = {}
    for index, row in enumerate(rows):
        token, count = tokens[row], draws[row].params.logprobs or 0
        assert token is not None
        ids = best[index, :count].tolist() if best is not None else []
        top = tuple(zip(ids, said[index, ids].tolist(), strict=True)) if ids else ()
        told[row] = TokenLogprobs(token, float(said[index, token]), top)
    return told
