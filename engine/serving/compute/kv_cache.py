"""Keys and values of the sequences in flight: blocks of consecutive tokens, a pair of tensors a layer.

A layer's tensors are [blocks + 1, size, n_kv_head, head_dim]; the last block takes what padding writes and is never
read unmasked. Layers are separate tensors so that a compiled step need not copy them. Memory that was never written is
zero and, on a CPU, not yet there: a large cache costs what is used of it.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from engine.serving.memory import available_on_cpu
from engine.serving.models.decoder import Shape
from state.words import ConfigError

SHARE_OF_CPU_MEMORY = 0.5
"""Of the memory that is free, what a cache may take when the settings leave it open: others live here too."""
SHARE_OF_GPU_MEMORY = 0.9


def bytes_per_token(shape: Shape, dtype: torch.dtype) -> int:
    """What one token costs in the cache, all layers together."""
    return 2 * shape.n_layer * shape.n_kv_head * shape.head_dim * dtype.itemsize


@dataclass(frozen=True, slots=True)
class CachePlan:
    """The size of a cache."""

    blocks: int
    block_size: int
    nbytes: int


def plan_cache(
    shape: Shape, dtype: torch.dtype, *, max_batch: int, block_size: int, asked_bytes: int, available_bytes: int
) -> CachePlan:
    """The cache that `max_batch` whole contexts want, cut to `asked_bytes` (0: to `available_bytes`).

    Raises ConfigError, with what would fit, when not even one context does: a request could wait for ever.
    """
    per_block = bytes_per_token(shape, dtype) * block_size
    one = -(-shape.context // block_size)
    limit = asked_bytes or available_bytes
    affordable = limit // per_block - 1
    if affordable < one:
        fits = max(0, affordable * block_size)
        raise ConfigError(
            f"a context of {shape.context} tokens needs {one * per_block / 2**20:.0f} MiB of KV cache, and "
            f"{limit / 2**20:.0f} MiB are {'asked for' if asked_bytes else 'available'}; {fits} tokens would fit",
            hint=f"set max_context to at most {fits}, a smaller dtype, or a larger kv_cache_mib",
        )
    blocks = min(one * max_batch, affordable)
    return CachePlan(blocks, block_size, (blocks + 1) * per_block)


def available_bytes(device: torch.device) -> int:
    """What a cache may take on the device as it is now."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return max(0, int(free - (1 - SHARE_OF_GPU_MEMORY) * total))
    return int(available_on_cpu() * SHARE_OF_CPU_MEMORY)


def _zeros(size: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Zeros that take no memory before they are written to. torch.zeros writes each of them itself."""
    if device.type != "cpu":
        return torch.zeros(size, device=device, dtype=dtype)
    # Anonymous pages are zero, and there only once they are touched. The tensor keeps the mapping alive.
    pages = mmap.mmap(-1, prod(size) * dtype.itemsize)
    return torch.frombuffer(pages, dtype=dtype).view(size)


class PagedCache:
    """The cache of one model on one device."""

    def __init__(self, shape: Shape, plan: CachePlan, device: torch.device, dtype: torch.dtype) -> None:
        self.block_size = plan.block_size
        self.blocks = plan.blocks
        self._scratch: Tensor | None = None
        self.dump = plan.blocks
        """The block where padding goes."""
        size = (plan.blocks + 1, plan.block_size, shape.n_kv_head, shape.head_dim)
        self.keys = [_zeros(size, device, dtype) for _ in range(shape.n_layer)]
        self.values = [_zeros(size, device, dtype) for _ in range(shape.n_layer)]

    @property
    def dtype(self) -> torch.dtype:
        """Of keys and values."""
        return self.keys[0].dtype

    @property
    def bytes_per_token(self) -> int:
        """What one token takes, all layers together."""
        return self.nbytes // ((self.blocks + 1) * self.block_size)

    @property
    def nbytes(self) -> int:
        """Bytes reserved, all layers together."""
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))

    def store(self, layer: int, slots: Tensor, key: Tensor, value: Tensor) -> None:
        """Put key, value [T, n_kv_head, D] at `slots` int64 [T] (block * size + offset)."""
        self.keys[layer].flatten(0, 1).index_copy_(0, slots, key)
        self.values[layer].flatten(0, 1).index_copy_(0, slots, value)

    def wipe(self, blocks: Sequence[int]) -> None:
        """Make blocks as if they had never been written.

        What hides a place from a sequence is a weight of 0, and 0 times what is not a number is not a number: such
        content would go on to whoever gets the block next.
        """
        where = torch.tensor(blocks, dtype=torch.int64, device=self.keys[0].device)
        for tensor in (*self.keys, *self.values):
            tensor.index_fill_(0, where, 0.0)

    def gather(self, layer: int, table: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        """Keys and values of `rows` sequences with equally long tables, int64 [rows * n]: [rows, n * size, H, D] each."""
        keys, values = self.keys[layer], self.values[layer]
        if table.is_cuda:
            # Indexing reads whole rows at a time there; index_select of few rows took six times as long.
            return self._apart(rows, keys[table], values[table])
        return self._apart(rows, keys.index_select(0, table), values.index_select(0, table))

    def read(self, layer: int, table: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        """As `gather`, into memory that the next call writes over: use it up before.

        On a CPU, touching fresh memory for every layer takes several times as long as copying into what is there.
        """
        if table.device.type != "cpu":
            return self.gather(layer, table, rows)
        count = table.numel()
        if self._scratch is None or self._scratch.shape[1] < count:
            self._scratch = self.keys[0].new_empty((2, count, *self.keys[0].shape[1:]))
        keys, values = self._scratch[0, :count], self._scratch[1, :count]
        torch.index_select(self.keys[layer], 0, table, out=keys)
        torch.index_select(self.values[layer], 0, table, out=values)
        return self._apart(rows, keys, values)

    @staticmethod
    def _apart(rows: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        size = (rows, -1, *keys.shape[2:])
        return keys.view(size), values.view(size)
