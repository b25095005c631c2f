"""The Llama family: RMS norms, rotary positions, grouped key heads, a gated perceptron (Touvron et al. 2023; Llama 3, Qwen 2 and 3).

On a CPU at batch 1 a step is hundreds of small operations, and each costs as much as its arithmetic. So query, key and
value are one product, what follows a product is part of it where a backend can do that, and the rotation is three operations on queries and keys together, with
sines and cosines looked up once a step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.serving.models.decoder import Attend, Shape
from engine.serving.models.linear import Linear
from engine.serving.models.llama_config import LlamaConfig


class RMSNorm(nn.Module):
    """Root mean square norm over the last dimension (Zhang and Sennrich 2019).

    In float32, and rounded to the input's dtype once: a scale rounded to bfloat16 is off by up to 0.4 % for a whole row.
    Every operation has operands of one dtype, those that torch vectorises on a CPU; its own norm takes the same time for
    one row and twice as long for the rows of a prompt. On a GPU its own is one kernel instead of nine, if the weight has
    the input's dtype.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps
        self.share = 1.0 / width

    def forward(self, x: Tensor) -> Tensor:
        """x [..., width] -> the same shape."""
        if x.is_cuda:
            return functional.rms_norm(x, self.weight.shape, self.weight, self.eps)
        wide = x.float()
        scale = torch.linalg.vector_norm(wide, 2, -1, True).square_().mul_(self.share).add_(self.eps).rsqrt_()
        # A float32 input is its own wide form, and is needed again for the residual.
        scaled = wide * scale if x.dtype is torch.float32 else wide.mul_(scale)
        return scaled.mul_(self.weight).to(x.dtype)


_ROWS = 512
"""Of a step, those that the perceptron computes at a time."""
Rotate = Callable[[Tensor, int, Tensor, Tensor], Tensor]


def rotate(heads: Tensor, count: int, cos: Tensor, sin: Tensor) -> Tensor:
    """The first `count` heads of [T, H, D], turned by their positions; cos, sin [T, 1, D], one row for all heads."""
    turning = heads[:, :count]
    return torch.addcmul(turning * cos, turning.roll(heads.shape[-1] // 2, -1), sin)


class Layer(nn.Module):
    """Attention, then the gated perceptron, each behind a norm and beside a residual."""

    def __init__(self, config: LlamaConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.rotate: Rotate = rotate
        self.n_head, self.n_kv_head, self.head_dim = config.n_head, config.n_kv_head, config.head_dim
        heads = config.n_head + 2 * config.n_kv_head
        self.norm_1 = RMSNorm(config.n_embd, config.norm_eps)
        self.qkv = Linear(config.n_embd, heads * config.head_dim, bias=config.qkv_bias)
        self.q_norm = RMSNorm(config.head_dim, config.norm_eps) if config.has_qk_norm else None
        self.k_norm = RMSNorm(config.head_dim, config.norm_eps) if config.has_qk_norm else None
        self.out = Linear(config.n_head * config.head_dim, config.n_embd, bias=config.out_bias)
        self.norm_2 = RMSNorm(config.n_embd, config.norm_eps)
        self.gate = Linear(config.n_embd, config.n_inner, bias=config.mlp_bias)
        self.up = Linear(config.n_embd, config.n_inner, bias=config.mlp_bias)
        self.down = Linear(config.n_inner, config.n_embd, bias=config.mlp_bias)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        """x [T, C]; cos, sin [T, 1, D] as `Llama.rotation` makes them -> [T, C]."""
        heads = self.qkv(self.norm_1(x)).view(x.shape[0], -1, self.head_dim)
        if self.q_norm is not None and self.k_norm is not None:
            query, key, value = heads.split_with_sizes((self.n_head, self.n_kv_head, self.n_kv_head), dim=1)
            heads = torch.cat((self.q_norm(query), self.k_norm(key), value), dim=1)
        turning = self.n_head + self.n_kv_head
        query, key = self.rotate(heads, turning, cos, sin).split_with_sizes((self.n_head, self.n_kv_head), dim=1)
        x = self.out.plus(attend(self.index, query, key, heads[:, turning:]), x)
        if len(x) <= _ROWS:
            return self._perceptron(x)
        # Its inner width is the widest thing there is: all rows of a large step at once took a hundred megabytes.
        return torch.cat([self._perceptron(x[at : at + _ROWS]) for at in range(0, len(x), _ROWS)])

    def _perceptron(self, x: Tensor) -> Tensor:
        inner = self.norm_2(x)
        return self.down.plus(self.up.times(inner, self.gate.swish(inner)), x)


class Llama(nn.Module):
    """The model, as the `Decoder` port has it. Its parameters are empty until weights are loaded into them."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        # Parameters without memory: they are replaced by what the file holds, and initialising billions takes minutes.
        with torch.device("meta"):
            # Given its weight, an embedding draws no numbers: on meta that imports torch's decompositions, for seconds.
            table = torch.empty(config.vocab_size, config.n_embd)
            self.embedding = nn.Embedding(config.vocab_size, config.n_embd, _weight=table)
            self.layers = nn.ModuleList(Layer(config, index) for index in range(config.n_layer))
            self.norm = RMSNorm(config.n_embd, config.norm_eps)
            self.lm_head = Linear(config.n_embd, config.vocab_size, bias=False)
        self.register_buffer("rotations", rotation_table(config), persistent=False)
        self.rotations: Tensor
        self.tie()

    def tie(self) -> None:
        """Make a tied head the embedding itself again, after either was replaced."""
        if self.config.is_tied:
            self.lm_head.weight = self.embedding.weight

    @property
    def shape(self) -> Shape:
        """See Decoder."""
        config = self.config
        return Shape(
            n_layer=config.n_layer,
            n_head=config.n_head,
            n_kv_head=config.n_kv_head,
            head_dim=config.head_dim,
            context=config.context,
            vocab_size=config.vocab_size,
        )

    def hidden(self, tokens: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """See Decoder."""
        x: Tensor = self.embedding(tokens)
        cos, sin = self.rotations.index_select(0, positions).unbind(1)
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
        for layer in self.layers:
            x = layer(x, cos, sin, attend)
        return x

    def head(self, hidden: Tensor) -> Tensor:
        """See Decoder."""
        logits: Tensor = self.lm_head(self.norm(hidden))
        return logits

    def parameter_count(self) -> int:
        """See Decoder. A tied head is the same parameter, which `parameters` yields once."""
        return sum(parameter.numel() for parameter in self.parameters())


def rotation_table(config: LlamaConfig) -> Tensor:
    """Cosines and sines of every position, float32 [context, 2, D] (Su et al. 2021, §3.4.2, with the halves apart).

    The first half of the sines is negated: then x·cos + roll(x, D/2)·sin is the whole rotation.
    """
    half = config.head_dim // 2
    base = [config.rope_theta ** (-index / half) for index in range(half)]
    scaling = config.rope_scaling
    frequencies = torch.tensor([scaling.apply(f) for f in base] if scaling else base, dtype=torch.float32)
    angles = torch.arange(config.context, dtype=torch.float32)[:, None] * frequencies
    cos, sin = angles.cos(), angles.sin()
    return torch.stack((torch.cat((cos, cos), dim=1), torch.cat((-sin, sin), dim=1)), dim=1)


def weight_sources(config: LlamaConfig) -> Mapping[str, tuple[str, ...]]:
    """For each parameter of `Llama`, the tensors of a Hugging Face file that it joins along its first dimension."""
    sources: dict[str, tuple[str, ...]] = {
        "embedding.weight": ("model.embed_tokens.weight",),
        "norm.weight": ("model.norm.weight",),
        "lm_head.weight": ("model.embed_tokens.weight" if config.is_tied else "lm_head.weight",),
    }
    joined = {
        "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "out": ("self_attn.o_proj",),
        "gate": ("mlp.gate_proj",),
        "up": ("mlp.up_proj",),
        "down": ("mlp.down_proj",),
        "norm_1": ("input_layernorm",),
        "norm_2": ("post_attention_layernorm",),
    }
    if config.has_qk_norm:
        joined |= {"q_norm": ("self_attn.q_norm",), "k_norm": ("self_attn.k_norm",)}
    biased = {
        "qkv": config.qkv_bias,
        "out": config.out_bias,
        "gate": config.mlp_bias,
        "up": config.mlp_bias,
        "down": config.mlp_bias,
    }
    for index in range(config.n_layer):
        for ours, theirs in joined.items():
            for kind in ("weight", "bias") if biased.get(ours) else ("weight",):
                sources[f"layers.{index}.{ours}.{kind}"] = tuple(
                    f"model.layers.{index}.{name}.{kind}" for name in theirs
                )
    return sources
