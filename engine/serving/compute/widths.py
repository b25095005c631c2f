"""How many rows a step's matrix products have: one of a few dozen numbers, never any number.

oneDNN and torch's layer over it prepare, and keep up to a thousand each of, code for every shape of a product they meet.
A mixed load meets every number of tokens there is: a server of a tiny model was seen to grow from 260 MB to 990 in
three minutes, and to spend a third of its steps on preparing. Rows that are added are computed for nothing.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from engine.serving.models.decoder import Attend

_EXACT = 16
"""Up to here every number is its own width: steps that only decode a few sequences compute nothing for nothing."""
_GRAIN_BITS = 4
"""Beyond, there are eight widths to each doubling."""


def padded_width(tokens: int) -> int:
    """The width of a step of `tokens` tokens: at most an eighth more."""
    if tokens <= _EXACT:
        return tokens
    grain = 1 << max(0, (tokens - 1).bit_length() - _GRAIN_BITS)
    return -(-tokens // grain) * grain


class PaddedAttend:
    """An Attend for hidden states with rows behind the step's own: those attend to nothing."""

    def __init__(self, attend: Attend, tokens: int, width: int) -> None:
        self._attend = attend
        self._tokens = tokens
        self._padding = width - tokens

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See Attend."""
        tokens = self._tokens
        out = self._attend(layer, query[:tokens], key[:tokens], value[:tokens])
        return functional.pad(out, (0, 0, 0, self._padding))
