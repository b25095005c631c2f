"""The matrix products of every model here, so that they can be exchanged for packed or quantized ones after loading."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class Linear(nn.Linear):
    """nn.Linear, with what follows it named where a backend can do it in the same pass over memory."""

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        """x [..., in], residual [..., out] -> residual + this of x."""
        out: Tensor = residual + self(x)
        return out

    def swish(self, x: Tensor) -> Tensor:
        """x [..., in] -> the SiLU (Elfwing et al. 2018) of this of x [..., out]."""
        return functional.silu(self(x))

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """x [..., in], other [..., out] -> other times this of x."""
        out: Tensor = other * self(x)
        return out

    def gelu(self, x: Tensor) -> Tensor:
        """x [..., in] -> the exact GELU (Hendrycks and Gimpel 2016) of this of x [..., out]."""
        return functional.gelu(self(x))
