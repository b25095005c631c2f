"""Keys and values of the sequences in flight: one slot a sequence, one pair of tensors a layer.

A layer's tensors are [slots, heads, block_size + 1, head_dim]. The extra last position takes what padding writes;
no mask ever admits it. Reads are cut to the longest live length, which is what keeps short sequences cheap
(a full window costs 1.4-1.5 times as much). Layers are separate tensors so that a compiled step need not copy them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.serving.models.gpt import GPTConfig, LayerCache


class SlotCache:
    """The cache of one model on one device; `slots` sequences of up to `block_size` tokens."""

    def __init__(self, config: GPTConfig, slots: int, device: torch.device, dtype: torch.dtype) -> None:
        self.slots = slots
        self.block_size = config.block_size
        self.dump = config.block_size
        """The position where padding goes."""
        shape = (slots, config.n_head, config.block_size + 1, config.head_dim)
        self.keys = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.n_layer)]
        self.values = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.n_layer)]

    @property
    def nbytes(self) -> int:
        """Bytes held, all layers together."""
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))

    def view(self, slots: Tensor, is_prefix: bool, positions: Tensor, live: int) -> list[LayerCache]:
        """A step's window on every layer.

        slots int64 [B]; `is_prefix` says they are 0..B-1, so that reading needs no copy; positions int64 [B,T] where
        the new tokens go; `live` is how many positions the longest sequence has after this step.
        """
        rows = slots[:, None]
        return [
            _LayerWindow(key, value, slots, rows, is_prefix, positions, live)
            for key, value in zip(self.keys, self.values, strict=True)
        ]


class _LayerWindow:
    """One layer of a step's window: the `LayerCache` that attention writes to and reads from."""

    __slots__ = ("_is_prefix", "_keys", "_live", "_positions", "_rows", "_slots", "_values")

    def __init__(
        self, keys: Tensor, values: Tensor, slots: Tensor, rows: Tensor, is_prefix: bool, positions: Tensor, live: int
    ) -> None:
        self._keys, self._values = keys, values
        self._slots, self._rows, self._is_prefix = slots, rows, is_prefix
        self._positions, self._live = positions, live

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store key, value [B,H,T,D]; return those of each sequence's first `live` positions, [B,H,S,D]."""
        self._keys[self._rows, :, self._positions] = key.transpose(1, 2)
        self._values[self._rows, :, self._positions] = value.transpose(1, 2)
        keys, values = self._keys[:, :, : self._live], self._values[:, :, : self._live]
        if self._is_prefix:
            count = len(self._slots)
            return keys[:count], values[:count]
        return keys.index_select(0, self._slots), values.index_select(0, self._slots)
