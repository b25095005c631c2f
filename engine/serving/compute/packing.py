"""A CPU's matrix products with weights laid out once as oneDNN wants them, instead of at every call.

For the few rows of a decoding step half of a plain bfloat16 product is the re-ordering of its weights. The packed
operators are those that torch.compile's freezing uses; they are tried before they are trusted, and a model stays as it
was where they are missing. What follows a product (a residual, a GELU) is done in the same pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from engine.serving.models.linear import Linear

_DTYPES = (torch.float32, torch.bfloat16)


class PackedLinear(nn.Module):
    """A Linear whose weight is in oneDNN's own layout. For inference on a CPU."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.out_features = linear.out_features
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().contiguous(), None)
        self.bias = linear.bias.detach() if linear.bias is not None else None

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return out

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        """See Linear.plus."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, residual, self.weight, self.bias, "add")
        return out

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """See Linear.times."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, other, self.weight, self.bias, "mul")
        return out

    def swish(self, x: Tensor) -> Tensor:
        """See Linear.swish."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "swish", [], "")
        return out

    def gelu(self, x: Tensor) -> Tensor:
        """See Linear.gelu."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "gelu", [], "none")
        return out


@torch.inference_mode()
def can_pack(dtype: torch.dtype) -> bool:
    """Whether this machine's torch computes packed products of `dtype`, and rightly."""
    if dtype not in _DTYPES or not torch._C._has_mkldnn:
        return False
    if dtype is torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    plain = Linear(48, 32, dtype=dtype)
    x, residual = torch.randn(3, 48).to(dtype), torch.randn(3, 32).to(dtype)
    tolerance = 1e-5 if dtype is torch.float32 else 5e-2
    try:
        packed = PackedLinear(plain)
        pairs = (
            (packed(x), plain(x)),
            (packed.plus(x, residual), plain.plus(x, residual)),
            (packed.times(x, residual), plain.times(x, residual)),
            (packed.swish(x), plain.swish(x)),
            (packed.gelu(x), plain.gelu(x)),
        )
    except (RuntimeError, AttributeError, NotImplementedError):
        # Private operators: another release of torch may have them otherwise, or not at all.
        return False
    return all(torch.allclose(ours.float(), theirs.float(), atol=tolerance) for ours, theirs in pairs)


def replace(model: nn.Module, make: Callable[[Any], nn.Module], kind: type[nn.Module] = nn.Linear) -> int:
    """Exchange every module of a `kind` in `model` for `make(module)`, one after the other; returns how many there were.

    One at a time: the old weight is let go before the next is packed, so memory peaks one matrix above the result.
    """
    places = [
        (parent, name)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, kind)
    ]
    for parent, name in places:
        setattr(parent, name, make(getattr(parent, name)))
    return len(places)


def pack(model: nn.Module, dtype: torch.dtype) -> bool:
    """Pack every product of a model on the CPU, if that works here; says whether it did."""
    if not can_pack(dtype):
        return False
    with torch.inference_mode():
        replace(model, PackedLinear)
    return True
