"""A loaded model with its products, norms and embeddings exchanged for those of the compiled kernels.

Activations are float32 from the embedding to the logits, whatever the weights are stored in: a processor without bfloat16
instructions computes bfloat16 ten to thirty times slower than float32, and rounds at every operation besides.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from engine.serving.compute.native.kernels import GELU, LANES, MAX_GROUP, MAX_HEAD, PLUS, SWISH, TIMES, Kernels, Product
from engine.serving.compute.native.layout import KINDS
from engine.serving.compute.packing import replace
from engine.serving.compute.quantize import int8_of
from engine.serving.models.decoder import Shape
from engine.serving.models.gpt import GPT
from engine.serving.models.llama import Layer, Llama, RMSNorm, rotation_table

CACHES = (torch.float32, torch.bfloat16)
"""Dtypes of the cache that the kernel of attention reads."""


class NativeLinear(nn.Module):
    """A Linear by the compiled product. float32 in and out."""

    def __init__(self, product: Product) -> None:
        super().__init__()
        self.product = product

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        return self.product(x)

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        """See Linear.plus."""
        return self.product(x, PLUS, residual)

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """See Linear.times."""
        return self.product(x, TIMES, other)

    def swish(self, x: Tensor) -> Tensor:
        """See Linear.swish."""
        return self.product(x, SWISH)

    def gelu(self, x: Tensor) -> Tensor:
        """See Linear.gelu."""
        return self.product(x, GELU)


class NativeNorm(nn.Module):
    """An RMSNorm by the compiled norm."""

    def __init__(self, kernels: Kernels, norm: RMSNorm) -> None:
        super().__init__()
        self._kernels = kernels
        self.weight = nn.Parameter(norm.weight.detach().float(), requires_grad=False)
        self.eps = norm.eps

    def forward(self, x: Tensor) -> Tensor:
        """x [..., width] -> the same shape."""
        return self._kernels.norm(x, self.weight, self.eps)


class TiedEmbedding(nn.Module):
    """The rows of a head's packed weight: a tied model holds its largest matrix once."""

    def __init__(self, head: NativeLinear) -> None:
        super().__init__()
        self._layout = head.product.layout

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens int64 [T] -> float32 [T, C]."""
        return self._layout.rows(tokens)


class WideEmbedding(nn.Module):
    """An embedding in its own dtype, looked up as float32."""

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        self.weight = embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens int64 [T] -> float32 [T, C]."""
        return nn.functional.embedding(tokens, self.weight).float()


def can_attend(shape: Shape, dtype: torch.dtype) -> bool:
    """Whether the compiled attention takes heads like these over a cache of `dtype`."""
    group = shape.n_head // shape.n_kv_head
    return dtype in CACHES and group <= MAX_GROUP and shape.head_dim <= MAX_HEAD and not shape.head_dim % LANES


def can_compute(model: nn.Module) -> bool:
    """Whether every product and norm of the model has a width and a dtype that the kernels take."""
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    norms = [module for module in model.modules() if isinstance(module, RMSNorm)]
    return all(one.weight.dtype in KINDS and not one.in_features % 2 for one in linears) and all(
        not len(one.weight) % LANES for one in norms
    )


@torch.inference_mode()
def exchange(model: GPT | Llama, kernels: Kernels, *, in_int8: bool) -> None:
    """Exchange everything that computes, in place; `in_int8`: weights in 8 bits by output channel."""

    def product_of(linear: nn.Linear) -> NativeLinear:
        if in_int8:
            weight, scale = int8_of(linear.weight.detach())
            return NativeLinear(kernels.quantized(weight, scale, linear.bias))
        return NativeLinear(kernels.product(linear.weight, linear.bias))

    is_tied = isinstance(model, GPT) or model.config.is_tied
    replace(model, product_of)
    if isinstance(model, Llama):
        model.rotations = rotation_table(model.config)
        for layer in model.layers:
            cast(Layer, layer).rotate = kernels.rotate
    replace(model, lambda norm: NativeNorm(kernels, norm), RMSNorm)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.float()
    head = model.lm_head
    assert isinstance(head, NativeLinear)
    name = "token_embedding" if isinstance(model, GPT) else "embedding"
    if is_tied:
        setattr(model, name, TiedEmbedding(head))
    replace(model, WideEmbedding, nn.Embedding)


def is_exchanged(model: nn.Module) -> bool:
    """Whether `exchange` was done: the model's activations are float32."""
    return any(isinstance(module, NativeLinear) for module in model.modules())
