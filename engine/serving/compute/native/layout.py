"""Weights as products.c reads them: panels of 16 outputs, what one turn of its loop needs side by side."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

PANEL = 16
KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}
"""Dtypes of weights, as vectors.h numbers them."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A weight [outputs, inputs] in panels: [ceil(outputs / 16), inputs, 16], or pairs of inputs side by side (bfloat16)."""

    weight: Tensor
    scale: Tensor | None
    outputs: int
    inputs: int

    def rows(self, index: Tensor) -> Tensor:
        """Rows `index` int64 [T] of the weight as it was, float32 [T, inputs]: a tied embedding needs no second copy."""
        panel, lane = index // PANEL, index % PANEL
        if self.weight.dtype is torch.bfloat16:
            found = self.weight.view(-1, self.inputs // 2, PANEL, 2)[panel, :, lane]
        else:
            found = self.weight.view(-1, self.inputs, PANEL)[panel, :, lane]
        wide = found.reshape(len(index), self.inputs).float()
        return wide if self.scale is None else wide * self.scale[index, None]


def lay_out(weight: Tensor, scale: Tensor | None = None) -> Layout:
    """`weight` [outputs, inputs] of a dtype in KINDS, inputs even; `scale` float32 [outputs] with int8."""
    outputs, inputs = weight.shape
    if weight.dtype not in KINDS or inputs % 2:
        raise ValueError(f"no kernel takes a weight of {outputs} by {inputs} numbers in {weight.dtype}")
    whole = functional.pad(weight.detach(), (0, 0, 0, -outputs % PANEL))
    if weight.dtype is torch.bfloat16:
        packed = whole.view(-1, PANEL, inputs // 2, 2).transpose(1, 2).contiguous()
    else:
        packed = whole.view(-1, PANEL, inputs).transpose(1, 2).contiguous()
    return Layout(packed, scale.float().contiguous() if scale is not None else None, outputs, inputs)
