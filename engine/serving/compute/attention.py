"""Attention of one step over the paged cache: who reads what is laid out once, then done on every layer.

Sequences that compute one token are read together, in groups of like length: their blocks are gathered and each query
sees its own past. A sequence that computes several is read by itself, causally. With fewer key heads than query heads
(grouped-query attention, Ainslie et al. 2023) the query heads of a group are taken as so many queries of one key head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from engine.serving.compute.kv_cache import PagedCache
from engine.serving.models.decoder import Shape


@dataclass(frozen=True, slots=True)
class Row:
    """Some consecutive tokens of one sequence: they go to positions `start`, `start`+1, … of the blocks in `table`."""

    table: Sequence[int]
    start: int
    tokens: Sequence[int]
    wants_logits: bool = True

    @property
    def end(self) -> int:
        """How many tokens the sequence has after this step."""
        return self.start + len(self.tokens)


@dataclass(frozen=True, slots=True)
class _Group:
    """Sequences with one new token each, at consecutive places of the step, read together."""

    first: int
    count: int
    table: Tensor
    """int64 [count * blocks]."""
    mask: Tensor | None
    """[count, 1, 1, S], what is added to the scores; None where all tables are full."""


@dataclass(frozen=True, slots=True)
class _Segment:
    """One sequence with several new tokens."""

    first: int
    count: int
    table: Tensor | None
    """int64 [blocks] of all it has so far; None when all it has is new."""
    length: int
    mask: Tensor | None
    """[count, length], when it continues something."""


def order(rows: Sequence[Row], block_size: int) -> list[int]:
    """The rows' places in a step: single tokens first, the longest sequence first, then the rest."""

    def key(index: int) -> tuple[bool, int]:
        return len(rows[index].tokens) > 1, -_blocks(rows[index], block_size)

    return sorted(range(len(rows)), key=key)


def _blocks(row: Row, block_size: int) -> int:
    return -(-row.end // block_size)


class StepAttention:
    """The `Attend` of one step. `rows` must be in the order that `order` gives."""

    def __init__(
        self, rows: Sequence[Row], cache: PagedCache, shape: Shape, positions: Tensor, slots: Tensor, dtype: torch.dtype
    ) -> None:
        self._cache = cache
        self._shape = shape
        self._slots = slots
        self._device, self._dtype = positions.device, dtype
        singles = [row for row in rows if len(row.tokens) == 1]
        self._groups = self._grouped(singles, positions)
        self._segments = []
        first = len(singles)
        for row in rows[first:]:
            self._segments.append(self._segment(row, first, positions))
            first += len(row.tokens)

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See Attend."""
        self._cache.store(layer, self._slots, key, value)
        parts = [self._decode(layer, group, query) for group in self._groups]
        parts += [self._extend(layer, segment, query, key, value) for segment in self._segments]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _decode(self, layer: int, group: _Group, query: Tensor) -> Tensor:
        shape, count = self._shape, group.count
        keys, values = self._cache.read(layer, group.table, count)
        grouped = query[group.first : group.first + count].reshape(
            count, shape.n_kv_head, shape.n_head // shape.n_kv_head, shape.head_dim
        )
        seen = functional.scaled_dot_product_attention(
            grouped, keys.transpose(1, 2), values.transpose(1, 2), attn_mask=group.mask
        )
        return seen.reshape(count, shape.n_head * shape.head_dim)

    def _extend(self, layer: int, segment: _Segment, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        shape, where = self._shape, slice(segment.first, segment.first + segment.count)
        if segment.table is None:
            keys, values = key[None, where], value[None, where]
        else:
            keys, values = self._cache.read(layer, segment.table, 1)
            keys, values = keys[:, : segment.length], values[:, : segment.length]
        seen = functional.scaled_dot_product_attention(
            query[None, where].transpose(1, 2),
            keys.transpose(1, 2),
            values.transpose(1, 2),
            attn_mask=segment.mask,
            is_causal=segment.mask is None,
            enable_gqa=shape.n_head != shape.n_kv_head,
        )
        return seen.transpose(1, 2).reshape(segment.count, shape.n_head * shape.head_dim)

    def _grouped(self, rows: Sequence[Row], positions: Tensor) -> list[_Group]:
        """Rows come longest first; a group ends where half of what it reads would be padding."""
        size = self._cache.block_size
        groups, first = [], 0
        while first < len(rows):
            longest = _blocks(rows[first], size)
            end = first + 1
            while end < len(rows) and _blocks(rows[end], size) * 2 >= longest:
                end += 1
            groups.append(self._group(rows[first:end], first, longest, positions[first:end]))
            first = end
        return groups

    def _group(self, rows: Sequence[Row], first: int, blocks: int, positions: Tensor) -> _Group:
        dump, size = self._cache.dump, self._cache.block_size
        table = [[*row.table[:blocks], *([dump] * (blocks - len(row.table)))] for row in rows]
        mask = None
        if any(row.end != blocks * size for row in rows):
            columns = torch.arange(blocks * size, device=self._device)
            mask = self._mask(columns > positions[:, None])[:, None, None]
        return _Group(first, len(rows), self._ints(table).flatten(), mask)

    def _segment(self, row: Row, first: int, positions: Tensor) -> _Segment:
        count = len(row.tokens)
        if row.start == 0:
            return _Segment(first, count, None, count, None)
        columns = torch.arange(row.end, device=self._device)
        mask = self._mask(columns > positions[first : first + count, None])
        table = self._ints(list(row.table[: _blocks(row, self._cache.block_size)]))
        return _Segment(first, count, table, row.end, mask)

    def _mask(self, hidden: Tensor) -> Tensor:
        """What is added to scores: nothing, or -inf where `hidden`."""
        return torch.zeros(hidden.shape, dtype=self._dtype, device=self._device).masked_fill_(hidden, -torch.inf)

    def _ints(self, values: list[int] | list[list[int]]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64).to(self._device, non_blocking=True)
