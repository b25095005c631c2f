"""Decoding on a GPU without Python in the way: one CUDA graph for each size of batch and length, captured when first met.

A graph replays fixed kernels over fixed memory, so a step is padded up to the next size: padding rows write to the dump
block and their logits are thrown away. The idea is gpt-fast's and nano-vllm's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from engine.serving.compute.attention import Row
from engine.serving.compute.kv_cache import PagedCache
from engine.serving.models.decoder import Decoder

BATCHES = (1, 2, 4, 8, 16, 32, 64)
"""Larger batches run without a graph: kernels are long enough there to hide their launch."""


@dataclass(frozen=True, slots=True)
class _Graph:
    replay: Callable[[], Tensor]
    """Computes anew from what the inputs hold now; returns the logits float32 [batch, V], the same memory each time."""
    inputs: Tensor
    """int64 [3, batch]: tokens, positions, slots."""
    table: Tensor
    """int64 [batch * blocks]."""


class _Attention:
    """The `Attend` inside a graph: every row has one token, every table the same length; lengths come from positions."""

    def __init__(self, cache: PagedCache, model: Decoder, inputs: Tensor, table: Tensor, dtype: torch.dtype) -> None:
        self._cache, self._shape = cache, model.shape
        self._slots, self._table, self._rows = inputs[2], table, inputs.shape[1]
        columns = torch.arange(table.numel() // self._rows * cache.block_size, device=inputs.device)
        hidden = columns > inputs[1, :, None]
        self._mask = torch.zeros(hidden.shape, dtype=dtype, device=inputs.device).masked_fill(hidden, -torch.inf)

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See Attend."""
        shape = self._shape
        self._cache.store(layer, self._slots, key, value)
        keys, values = self._cache.read(layer, self._table, self._rows)
        grouped = query.reshape(self._rows, shape.n_kv_head, shape.n_head // shape.n_kv_head, shape.head_dim)
        seen = functional.scaled_dot_product_attention(
            grouped, keys.transpose(1, 2), values.transpose(1, 2), attn_mask=self._mask[:, None, None]
        )
        return seen.reshape(self._rows, shape.n_head * shape.head_dim)


class CudaCapture:
    """Records a computation on the GPU once, to be replayed; all recordings share one pool of memory."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """What replays `compute`."""
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            # Libraries set themselves up at their first calls, which a graph must not contain.
            for _ in range(2):
                compute()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            result = compute()
        self._pool = self._pool or graph.pool()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay


class DecodeGraphs:
    """The graphs of one model over one cache. `capture` makes a computation over fixed memory replayable."""

    def __init__(
        self,
        model: Decoder,
        cache: PagedCache,
        dtype: torch.dtype,
        capture: Callable[[Callable[[], Tensor]], Callable[[], Tensor]],
    ) -> None:
        self._model, self._cache, self._dtype, self._capture = model, cache, dtype, capture
        self._device = cache.keys[0].device
        self._graphs: dict[tuple[int, int], _Graph] = {}

    def run(self, rows: Sequence[Row]) -> Tensor | None:
        """Logits float32 [rows, V] of rows of one token each; None when the batch is larger than any graph."""
        batch = next((size for size in BATCHES if size >= len(rows)), None)
        if batch is None:
            return None
        size, dump = self._cache.block_size, self._cache.dump
        longest = max(-(-row.end // size) for row in rows)
        blocks = 1 << (longest - 1).bit_length()
        graph = self._graphs.get((batch, blocks)) or self._new(batch, blocks)
        padding = batch - len(rows)
        numbers = [
            [*(row.tokens[0] for row in rows), *([0] * padding)],
            [*(row.start for row in rows), *([0] * padding)],
            [*(row.table[row.start // size] * size + row.start % size for row in rows), *([dump * size] * padding)],
        ]
        tables = [
            *([*row.table[:blocks], *([dump] * (blocks - len(row.table[:blocks])))] for row in rows),
            *([[dump] * blocks] * padding),
        ]
        graph.inputs.copy_(torch.tensor(numbers, dtype=torch.int64), non_blocking=True)
        graph.table.copy_(torch.tensor(tables, dtype=torch.int64).flatten(), non_blocking=True)
        # A copy: the next replay writes over what this one gave.
        return graph.replay()[: len(rows)].clone()

    def _new(self, batch: int, blocks: int) -> _Graph:
        inputs = torch.zeros(3, batch, dtype=torch.int64, device=self._device)
        inputs[2] = self._cache.dump * self._cache.block_size
        table = torch.full((batch * blocks,), self._cache.dump, dtype=torch.int64, device=self._device)

        def compute() -> Tensor:
            attend = _Attention(self._cache, self._model, inputs, table, self._dtype)
            return self._model.head(self._model.hidden(inputs[0], inputs[1], attend)).float()

        captured = self._graphs[batch, blocks] = _Graph(self._capture(compute), inputs, table)
        return captured
