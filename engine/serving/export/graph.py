"""A model as one graph: tokens in, the logits of every position out. No cache: what runs it keeps no state of ours."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.serving.models.decoder import Decoder
from engine.serving.models.gpt import GPT


class WholeSequence(nn.Module):
    """A decoder over whole sequences: tokens int64 [B,T] -> logits float32 [B,T,V]."""

    def __init__(self, model: Decoder) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(f"{type(model).__name__} is no torch module: its weights could not be exported")
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        """See the class."""
        model: Decoder = self.model
        shape = model.shape
        batch, length = tokens.shape
        groups = shape.n_head // shape.n_kv_head

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            queries, keys, values = (
                x.reshape(batch, length, heads, shape.head_dim).transpose(1, 2)
                for x, heads in ((query, shape.n_head), (key, shape.n_kv_head), (value, shape.n_kv_head))
            )
            if groups > 1:
                # Spelt out: not every runtime that reads the graph knows grouped heads.
                keys, values = keys.repeat_interleave(groups, dim=1), values.repeat_interleave(groups, dim=1)
            seen = functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
            return seen.transpose(1, 2).reshape(batch * length, shape.n_head * shape.head_dim)

        positions = torch.arange(length, device=tokens.device).repeat(batch)
        hidden = model.hidden(tokens.reshape(-1), positions, attend)
        return model.head(hidden).float().reshape(batch, length, shape.vocab_size)


def whole_sequence(model: nn.Module) -> nn.Module:
    """`model` as tokens [B,T] -> logits [B,T,V], in eval mode. Our GPT has such a way through it already."""
    found = model if isinstance(model, GPT) else WholeSequence(model)  # type: ignore[arg-type]
    return found.eval().requires_grad_(False)
