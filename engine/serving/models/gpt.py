"""The built-in model: a small decoder-only transformer (GPT-2's shape: Radford et al. 2019, §2.3).

Learned positions, pre-norm blocks, GELU, no dropout, the head tied to the token embedding.
One set of weights has two ways through it:

* `forward(tokens)`: whole sequences, for training and scoring;
* `hidden(tokens, positions, attend)` and `head`: the `Decoder` port, with which the serving engine prefills and decodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.serving.models.decoder import Attend, Shape
from engine.serving.models.linear import Linear

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


class Attention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.head_dim = config.head_dim
        self.qkv = Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.proj = Linear(config.n_embd, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x [B,T,C] -> [B,T,C], each token over those up to itself."""
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.n_head, self.head_dim)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        out: Tensor = self.proj(y.transpose(1, 2).reshape(batch, length, width))
        return out

    def extend(self, x: Tensor, residual: Tensor, layer: int, attend: Attend) -> Tensor:
        """x, residual [T,C] -> residual and the attention of x [T,C], over what `attend` shows each token."""
        query, key, value = self.qkv(x).view(x.shape[0], 3, self.n_head, self.head_dim).unbind(1)
        return self.proj.plus(attend(layer, query, key, value), residual)


class Block(nn.Module):
    """Attention, then a two-layer perceptron, each behind a norm and beside a residual."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.attention = Attention(config)
        self.norm_2 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.up = Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.down = Linear(4 * config.n_embd, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x [B,T,C] -> [B,T,C]."""
        x = x + self.attention(self.norm_1(x))
        return self.down.plus(self.up.gelu(self.norm_2(x)), x)

    def extend(self, x: Tensor, layer: int, attend: Attend) -> Tensor:
        """x [T,C] -> [T,C]."""
        x = self.attention.extend(self.norm_1(x), x, layer, attend)
        return self.down.plus(self.up.gelu(self.norm_2(x)), x)


class GPT(nn.Module):
    """The model. `state_dict()` is what `model.safetensors` holds: the tied head has no entry of its own."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.n_embd)
        self.position_embedding = nn.Embedding(config.block_size, config.n_embd)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.lm_head: nn.Module | None = None
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

    @property
    def shape(self) -> Shape:
        """See Decoder."""
        config = self.config
        return Shape(
            n_layer=config.n_layer,
            n_head=config.n_head,
            n_kv_head=config.n_head,
            head_dim=config.head_dim,
            context=config.block_size,
            vocab_size=config.vocab_size,
        )

    def hidden(self, tokens: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """See Decoder."""
        x: Tensor = self.token_embedding(tokens) + self.position_embedding(positions)
        for index, block in enumerate(self.blocks):
            x = cast(Block, block).extend(x, index, attend)
        return x

    def head(self, hidden: Tensor) -> Tensor:
        """See Decoder."""
        if self.lm_head is not None:
            out: Tensor = self.lm_head(self.norm(hidden))
            return out
        return functional.linear(self.norm(hidden), self.token_embedding.weight)

    def give_head(self) -> None:
        """Make the tied head a product of its own, over the same weight, that can be packed or quantized."""
        head = Linear(self.config.n_embd, self.config.vocab_size, bias=False)
        head.weight = self.token_embedding.weight
        self.lm_head = head

    def parameter_count(self) -> int:
        """How many numbers are trained (the tied head is counted once)."""
        return sum(parameter.numel() for parameter in self.parameters())
