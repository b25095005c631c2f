"""AdamW by torch's own function, without the class around it.

Making a `torch.optim.AdamW` imports torch's compiler, which takes as long as torch itself: most of what a short training
took. The function is the same arithmetic, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim.adamw import adamw

EPS = 1e-8


class AdamW:
    """AdamW (Loshchilov & Hutter 2019) over `parameters`; weight decay pulls on matrices only, not on biases and norms."""

    def __init__(self, parameters: Iterable[Tensor], *, betas: tuple[float, float], weight_decay: float) -> None:
        everything = list(parameters)
        self._betas = betas
        self._groups = (
            _Group([p for p in everything if p.dim() >= 2], weight_decay),
            _Group([p for p in everything if p.dim() < 2], 0.0),
        )

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Move every parameter by its `grad`, which each must have, at learning rate `lr`."""
        for group in self._groups:
            gradients = [parameter.grad for parameter in group.parameters if parameter.grad is not None]
            adamw(
                group.parameters,
                gradients,
                group.means,
                group.squares,
                [],
                group.steps,
                foreach=any(gradient.is_cuda for gradient in gradients),
                amsgrad=False,
                beta1=self._betas[0],
                beta2=self._betas[1],
                lr=lr,
                weight_decay=group.weight_decay,
                eps=EPS,
                maximize=False,
            )


class _Group:
    """Parameters of one weight decay, and what AdamW remembers of each."""

    def __init__(self, parameters: list[Tensor], weight_decay: float) -> None:
        self.parameters = parameters
        self.weight_decay = weight_decay
        self.means = [torch.zeros_like(p) for p in parameters]
        self.squares = [torch.zeros_like(p) for p in parameters]
        self.steps = [torch.tensor(0.0) for _ in parameters]
