"""What the engine asks of a model: hidden states of some new tokens, attention left to whoever keeps the cache.

Sequences lie one behind the other in one flat row of tokens, no padding: every matrix product is as large as the step.
Which tokens see which is the business of the `Attend` passed in; the model knows neither batch nor cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Shape:
    """What a cache and a scheduler must know of a model."""

    n_layer: int
    n_head: int
    n_kv_head: int
    head_dim: int
    context: int
    """The most tokens of a sequence, prompt and answer together."""
    vocab_size: int


class Attend(Protocol):
    """Attention of one step, over whatever each token may see, itself included."""

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """query [T, n_head, D]; key, value [T, n_kv_head, D], rotated if the model rotates -> [T, n_head * D]."""
        ...


class Decoder(Protocol):
    """A decoder-only language model. Weights are in eval mode, on one device, in one dtype."""

    @property
    def shape(self) -> Shape:
        """Its sizes."""
        ...

    def hidden(self, tokens: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """tokens, positions int64 [T] -> hidden states [T, C], before the last norm."""
        ...

    def head(self, hidden: Tensor) -> Tensor:
        """Hidden states [N, C] of the tokens whose successor is wanted -> logits [N, V]."""
        ...

    def parameter_count(self) -> int:
        """How many numbers were trained; a tied head counts once."""
        ...
