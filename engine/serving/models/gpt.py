"""The built-in model: a small decoder-only transformer (GPT-2's shape: Radford et al. 2019, §2.3).

Learned positions, pre-norm blocks, GELU, no dropout, the head tied to the token embedding.
One set of weights has two ways through it:

* `forward(tokens)`: whole sequences, for training and scoring;
* `extend(tokens, positions, cache, mask)`: some new tokens for each of several sequences whose
  keys and values are already in a cache; the serving engine prefills and decodes with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

ARCHITECTURE = "airboss-gpt"
"""What `config.json` must name for this module to be the one that loads it."""


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a model. The defaults are the built-in one: 0.8 M parameters."""

    n_layer: int = 4
    n_head: int = 4
    n_embd: int = 128
    block_size: int = 64
    vocab_size: int = 84
    bias: bool = True
    """Whether projections and norms add a bias; nanoGPT's checkpoints often have none."""

    def __post_init__(self) -> None:
        if not isinstance(self.bias, bool):
            raise ValueError(f"bias must be true or false, not {self.bias!r}")
        for name, value in asdict(self).items():
            if name == "bias":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd ({self.n_embd}) must be a multiple of n_head ({self.n_head})")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.n_embd // self.n_head

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> GPTConfig:
        """The value of `config.json`. Raises ValueError on a missing, unknown or wrong field."""
        fields = dict(value)
        architecture = fields.pop("architecture", ARCHITECTURE)
        if architecture != ARCHITECTURE:
            raise ValueError(f"architecture is {architecture!r}; this model server runs {ARCHITECTURE!r}")
        # Bundles from before there was a choice say nothing of it.
        fields.setdefault("bias", True)
        expected = set(cls.__dataclass_fields__)
        if set(fields) != expected:
            odd = ", ".join(sorted(set(fields) ^ expected))
            raise ValueError(f"missing or unknown fields: {odd}")
        return cls(**fields)

    def to_json(self) -> dict[str, Any]:
        """What `config.json` holds."""
        return {"architecture": ARCHITECTURE, **asdict(self)}


class LayerCache(Protocol):
    """Where one layer keeps keys and values of the sequences in a batch."""

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new ones [B,H,T,D]; return everything these sequences may look at [B,H,S,D]."""
        ...


class Attention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.head_dim = config.head_dim
        self.qkv = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor, cache: LayerCache | None = None, mask: Tensor | None = None) -> Tensor:
        """x [B,T,C] -> [B,T,C]. Without a cache: causal over T. With one: over what `mask` [B,1,T,S] admits."""
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.n_head, self.head_dim)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if cache is None:
            y = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        else:
            key, value = cache.extend(key, value)
            y = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        out: Tensor = self.proj(y.transpose(1, 2).reshape(batch, length, width))
        return out


class Block(nn.Module):
    """Attention, then a two-layer perceptron, each behind a norm and beside a residual."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.attention = Attention(config)
        self.norm_2 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.up = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.down = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor, cache: LayerCache | None = None, mask: Tensor | None = None) -> Tensor:
        """x [B,T,C] -> [B,T,C]."""
        x = x + self.attention(self.norm_1(x), cache, mask)
        out: Tensor = x + self.down(functional.gelu(self.up(self.norm_2(x))))
        return out


class GPT(nn.Module):
    """The model. `state_dict()` is what `model.safetensors` holds: the tied head has no entry of its own."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.position_embedding = nn.Embedding(config.block_size, config.n_embd)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = nn.LayerNorm(config.n_embd, bias=config.bias)
        self._init_weights()

    def _init_weights(self) -> None:
        """GPT-2's initialisation: N(0, 0.02), the layers that feed a residual scaled by 1/sqrt(2 n_layer)."""
        residual_std = 0.02 / (2 * self.config.n_layer) ** 0.5
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif name.endswith(("proj.weight", "down.weight")):
                nn.init.normal_(parameter, std=residual_std)
            elif parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens int64 [B,T], T <= block_size -> logits [B,T,V] (float32 unless the model was cast)."""
        length = tokens.shape[1]
        if length > self.config.block_size:
            raise ValueError(f"{length} tokens do not fit the model's context of {self.config.block_size}")
        positions = torch.arange(length, device=tokens.device)
        x = self.token_embedding(tokens) + self.position_embedding(positions)
        for block in self.blocks:
            x = block(x)
        return functional.linear(self.norm(x), self.token_embedding.weight)

    def extend(self, tokens: Tensor, positions: Tensor, caches: list[LayerCache], mask: Tensor | None) -> Tensor:
        """New tokens of cached sequences: tokens, positions int64 [B,T] -> hidden states [B,T,C].

        `mask` [B,1,T,S] is True where a new token may look (None: everywhere). `head` makes logits of
        the rows that are wanted: a prefill needs only its last.
        """
        x: Tensor = self.token_embedding(tokens) + self.position_embedding(positions)
        for block, cache in zip(self.blocks, caches, strict=True):
            x = block(x, cache, mask)
        return x

    def head(self, hidden: Tensor) -> Tensor:
        """Hidden states [...,C] -> logits [...,V]."""
        return functional.linear(self.norm(hidden), self.token_embedding.weight)

    def parameter_count(self) -> int:
        """How many numbers are trained (the tied head is counted once)."""
        return sum(parameter.numel() for parameter in self.parameters())
