"""What decoding sequences see, kept side by side from step to step, so that it need not be gathered at every one.

While the same sequences decode, each step adds one key and one value to what the step before read. Gathering all of it
from the blocks again is half the attention of a large batch; so the last gathering is kept, with room to grow, and the
new keys are written into it as well as into their blocks. When the batch changes it is gathered anew.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.serving.compute.kv_cache import PagedCache

_GROWTH_BLOCKS = 4
"""How many blocks a window can grow before it must be gathered again."""


class Window:
    """Keys and values of one batch of decoding sequences: [rows, length, n_kv_head, head_dim] a layer."""

    def __init__(self, cache: PagedCache, max_bytes: int) -> None:
        self._cache = cache
        self._max_tokens = max_bytes // max(1, cache.bytes_per_token)
        self._numbers: tuple[int, ...] = ()
        self._ends: tuple[int, ...] = ()
        self._length = 0
        self._keys: list[Tensor | None] = [None] * len(cache.keys)
        self._values: list[Tensor | None] = [None] * len(cache.keys)
        self._places: Tensor | None = None
        self._table: Tensor | None = None

    def follow(self, numbers: Sequence[int], starts: Sequence[int], tables: Sequence[Sequence[int]]) -> int | None:
        """Begin a step of sequences `numbers`, whose new token goes to `starts`; returns how long the window is.

        None when a window of this batch would take too much memory: then the blocks are gathered at each step.
        """
        size, dump = self._cache.block_size, self._cache.dump
        longest = -(-(max(starts) + 1) // size)
        blocks = longest + _GROWTH_BLOCKS
        if len(numbers) * blocks * size > self._max_tokens:
            self.forget()
            return None
        same = tuple(numbers) == self._numbers and tuple(starts) == self._ends and max(starts) < self._length
        self._numbers, self._ends = tuple(numbers), tuple(start + 1 for start in starts)
        device = self._cache.keys[0].device
        if same:
            places = [row * self._length + start for row, start in enumerate(starts)]
            self._places, self._table = torch.tensor(places, device=device), None
        else:
            whole = [[*table[:longest], *([dump] * (blocks - len(table[:longest])))] for table in tables]
            self._places, self._table = None, torch.tensor(whole, device=device).flatten()
            self._length = blocks * size
        return self._length

    def forget(self) -> None:
        """Let the memory go."""
        self._numbers, self._ends, self._length = (), (), 0
        self._keys = [None] * len(self._keys)
        self._values = [None] * len(self._values)

    def read(self, layer: int, key: Tensor, value: Tensor, live: int) -> tuple[Tensor, Tensor]:
        """Take the step's new key, value [rows, H, D], already in their blocks; return the first `live` of each row."""
        keys, values = self._keys[layer], self._values[layer]
        if self._table is not None or keys is None or values is None:
            assert self._table is not None
            keys, values = self._cache.gather(layer, self._table, len(key))
            self._keys[layer], self._values[layer] = keys, values
        else:
            assert self._places is not None
            keys.flatten(0, 1).index_copy_(0, self._places, key)
            values.flatten(0, 1).index_copy_(0, self._places, value)
        return keys[:, :live], values[:, :live]
