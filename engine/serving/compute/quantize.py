"""Weights in fewer bits. What it costs in quality is measured by `airboss bench serving`, not promised here.

int8: on a CPU that multiplies integers, weights int8 by output channel and activations int8 by token, scaled anew at each
call ("dynamic quantization", by oneDNN; fast for one row and for many). Elsewhere weights only: by the compiled kernels
(native/model.py) where there are some.
int8_weight_only: weights int8 by output channel, activations as they are. For a few rows.
int4: weights in 4 bits with a scale and a zero for each group along the input (torch's tinygemm kernels). GPU and CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.serving.compute.packing import replace
from state.words import ConfigError

_FEW_ROWS = 4
"""Up to so many rows torch's int8 weight-only product on a CPU is faster than one of the weight made whole again."""
INT4_GROUP = 32
_LEVELS, _MIDDLE = 127, 128
"""Activations are bytes from 1 to 255 around the one that stands for zero."""


class _Quantized(nn.Module):
    """What every quantized product offers besides its own forward."""

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        """See Linear.plus."""
        out: Tensor = residual + self(x)
        return out

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """See Linear.times."""
        out: Tensor = other * self(x)
        return out

    def swish(self, x: Tensor) -> Tensor:
        """See Linear.swish."""
        return functional.silu(self(x))

    def gelu(self, x: Tensor) -> Tensor:
        """See Linear.gelu."""
        return functional.gelu(self(x))


def int8_of(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight [out, in] -> int8 [out, in] and scale float32 [out]: symmetric, the largest of a row becomes 127."""
    scale = weight.float().abs().amax(dim=1).clamp(min=1e-12) / 127.0
    return (weight.float() / scale[:, None]).round().clamp(-127, 127).to(torch.int8), scale


class Int8Dynamic(_Quantized):
    """Integer products on a CPU: weights int8 by channel, activations int8 by token, scaled at each call.

    By token, not by tensor: a prompt's first token has activations a hundred times its neighbours', and one scale for
    all would round those away (SmolLM2-135M's perplexity rose by 60 %), and make an answer depend on its batch.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight, self._scale = int8_of(linear.weight.detach())
        self._zero = torch.zeros(len(self._scale), dtype=torch.int32)
        self._half = torch.tensor(_MIDDLE + 0.5)
        self._packed = torch.ops.onednn.qlinear_prepack(weight, None)
        self._bias = linear.bias.detach() if linear.bias is not None else None

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out] in x's dtype."""
        rows = x.reshape(-1, x.shape[-1]).float()
        largest = torch.linalg.vector_norm(rows, torch.inf, -1, True).clamp_min_(1e-12)
        # Cutting off after adding a half is rounding; few operations, for a step of one sequence has 150 of these.
        codes = torch.addcmul(self._half, rows, largest.reciprocal(), value=_LEVELS).to(torch.uint8)
        out = torch.ops.onednn.qlinear_pointwise(
            codes, 1.0 / _LEVELS, _MIDDLE, self._packed, self._scale, self._zero, None,
            1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        out = (out * largest).to(x.dtype).reshape(*x.shape[:-1], -1)
        whole: Tensor = out + self._bias if self._bias is not None else out
        return whole


class Int8WeightOnly(_Quantized):
    """Weights int8, activations as they are: for a few rows as such, for many with the weight made whole again."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight, scale = int8_of(linear.weight.detach())
        dtype = torch.bfloat16 if linear.weight.dtype is torch.float32 else linear.weight.dtype
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale.to(dtype))
        self.register_buffer("bias", linear.bias.detach() if linear.bias is not None else None)
        self.weight: Tensor
        self.scale: Tensor
        self.bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out] in x's dtype."""
        rows = x.reshape(-1, x.shape[-1])
        if x.is_cuda:
            # torch's own product made a step seven times as long as bfloat16 does on an H200 (GPU.md).
            out = functional.linear(rows, self.weight.to(x.dtype)) * self.scale.to(x.dtype)
        elif rows.shape[0] <= _FEW_ROWS:
            out = torch.ops.aten._weight_int8pack_mm(rows.to(self.scale.dtype), self.weight, self.scale).to(x.dtype)
        else:
            out = functional.linear(rows, self.weight.to(x.dtype) * self.scale[:, None].to(x.dtype))
        out = out.reshape(*x.shape[:-1], -1)
        whole: Tensor = out + self.bias if self.bias is not None else out
        return whole


class Int4(_Quantized):
    """Weights in 4 bits by groups of INT4_GROUP inputs, activations bfloat16."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        device = weight.device
        grouped = weight.reshape(weight.shape[0], -1, INT4_GROUP)
        low, high = grouped.amin(-1, keepdim=True), grouped.amax(-1, keepdim=True)
        scale = (high - low).clamp(min=1e-6) / 15.0
        codes = ((grouped - low) / scale).round().clamp(0, 15).to(torch.int32).reshape(weight.shape)
        # tinygemm reads a code c as (c - 8) * scale + zero.
        zero = low + 8.0 * scale
        pairs = torch.stack((scale.squeeze(-1), zero.squeeze(-1)), dim=-1).transpose(0, 1).contiguous()
        self.register_buffer("scales", pairs.to(torch.bfloat16))
        self.is_on_cpu = device.type == "cpu"
        if self.is_on_cpu:
            packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
        else:
            bytes_ = (codes[:, ::2] << 4 | codes[:, 1::2]).to(torch.uint8)
            packed = torch.ops.aten._convert_weight_to_int4pack(bytes_, 8)
        self.register_buffer("weight", packed)
        self.register_buffer("bias", linear.bias.detach() if linear.bias is not None else None)
        self.scales: Tensor
        self.weight: Tensor
        self.bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out] in x's dtype."""
        rows = x.reshape(-1, x.shape[-1]).to(torch.bfloat16)
        product = torch.ops.aten._weight_int4pack_mm_for_cpu if self.is_on_cpu else torch.ops.aten._weight_int4pack_mm
        out = product(rows, self.weight, INT4_GROUP, self.scales).to(x.dtype).reshape(*x.shape[:-1], -1)
        whole: Tensor = out + self.bias if self.bias is not None else out
        return whole


@torch.inference_mode()
def multiplies_integers() -> bool:
    """Whether oneDNN's integer products are right on this machine.

    A processor without instructions for them adds pairs of products in 16 bits, which overflow without a word: on AVX2
    alone, products were off by a tenth.
    """
    if "onednn" not in torch.backends.quantized.supported_engines:
        return False
    # The largest codes there are, next to each other.
    linear = nn.Linear(64, 16, bias=False)
    linear.weight.fill_(1.0)
    x = torch.ones(2, 64)
    try:
        found = Int8Dynamic(linear)(x)
    except RuntimeError:
        return False
    return torch.allclose(found, linear(x), rtol=0.02)


def quantize(model: nn.Module, kind: str, device: torch.device) -> None:
    """Exchange every product of a loaded model. Raises ConfigError when the model or the device cannot have it."""
    make: type[nn.Module] = {"int8": Int8Dynamic, "int8_weight_only": Int8WeightOnly, "int4": Int4}[kind]
    if kind == "int8" and (device.type != "cpu" or not multiplies_integers()):
        make = Int8WeightOnly
    if kind == "int4":
        odd = [m for m in model.modules() if isinstance(m, nn.Linear) and (m.in_features % 128 or m.out_features % 16)]
        if odd:
            raise ConfigError(
                f"quantization int4 needs widths in multiples of 128 and 16; one is {odd[0].in_features} by "
                f"{odd[0].out_features}",
                hint="use quantization = 'int8'",
            )
    with torch.inference_mode():
        replace(model, make)
