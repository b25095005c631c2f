"""Attention over one whole sequence: what a model is scored with, apart from any cache."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def causal_attention(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """An `Attend` (engine/serving/models/decoder.py) of one sequence of T tokens, each seeing those up to itself."""
    q, k, v = (part.transpose(0, 1)[None] for part in (query, key, value))
    out = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=k.shape[1] != q.shape[1])
    return out[0].transpose(0, 1).reshape(query.shape[0], -1)
