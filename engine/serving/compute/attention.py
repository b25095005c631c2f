"""Attention of one step over the paged cache: who reads what is laid out once, then done on every layer.

Sequences that compute one token are read together, through a window that is kept from step to step, or in groups of
like length gathered from their blocks. A sequence that computes several is read by itself, causally; new ones of equal
length are read together. With fewer key heads than query heads (grouped-query attention, Ainslie et al. 2023) the query
heads of a group are taken as so many queries of one key head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor
from torch.nn import functional

from engine.serving.compute.kv_cache import PagedCache
from engine.serving.compute.native.kernels import Kernels, Past
from engine.serving.compute.window import Window
from engine.serving.models.decoder import Shape


@dataclass(frozen=True, slots=True)
class Row:
    """Some consecutive tokens of one sequence: they go to positions `start`, `start`+1, … of the blocks in `table`."""

    number: int
    """Whose tokens they are; never used for two sequences."""
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
    table: Tensor | None
    """int64 [count * blocks]; None for the one group that is read through the window."""
    length: int
    """How many places of each are read."""
    mask: Tensor | None
    """[count, 1, 1, length], what is added to the scores; None where all are equally long."""


@dataclass(frozen=True, slots=True)
class _Segment:
    """Sequences with `count` new tokens each: one that continues something, or several that are all new."""

    first: int
    count: int
    sequences: int
    table: Tensor | None
    """int64 [blocks] of all it has so far; None when all it has is new."""
    length: int
    mask: Tensor | None
    """[count, length], when it continues something."""


def order(rows: Sequence[Row], block_size: int) -> list[int]:
    """The rows' places in a step: single tokens first, those of like length together, then the rest, likewise."""

    def key(index: int) -> tuple[bool, int, int]:
        row = rows[index]
        if len(row.tokens) > 1:
            return True, len(row.tokens) * (1 if row.start == 0 else -1), row.number
        # Rounded, so that rows of about the same length keep their places while they grow.
        return False, -_blocks(row, block_size).bit_length(), row.number

    return sorted(range(len(rows)), key=key)


def _blocks(row: Row, block_size: int) -> int:
    return -(-row.end // block_size)


class StepAttention:
    """The `Attend` of one step. `rows` must be in the order that `order` gives."""

    def __init__(
        self,
        rows: Sequence[Row],
        cache: PagedCache,
        window: Window,
        shape: Shape,
        positions: Tensor,
        slots: Tensor,
        dtype: torch.dtype,
        kernels: Kernels | None = None,
    ) -> None:
        self._cache, self._window = cache, window
        self._shape, self._kernels = shape, kernels
        self._slots = slots
        self._device, self._dtype = positions.device, dtype
        singles = [row for row in rows if len(row.tokens) == 1]
        self._singles = len(singles)
        self._past = self._paged(singles, kernels) if singles and kernels is not None else None
        self._groups = self._grouped(singles, positions) if self._past is None else []
        self._segments: list[_Segment] = []
        first = len(singles)
        for (is_new, count), alike in groupby(rows[first:], key=lambda row: (row.start == 0, len(row.tokens))):
            group = list(alike)
            if is_new:
                self._segments.append(_Segment(first, count, len(group), None, count, None))
            else:
                self._segments += [
                    self._continued(row, first + index * count, positions) for index, row in enumerate(group)
                ]
            first += count * len(group)

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """See Attend."""
        key, value = self._stored(layer, key, value)
        parts = [self._native(layer, self._past, query[: self._singles])] if self._past is not None else []
        parts += [self._decode(layer, group, query, key, value) for group in self._groups]
        parts += [self._extend(layer, segment, query, key, value) for segment in self._segments]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _stored(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Put them into the cache; returns them as the cache rounded them, where somebody still needs that.

        What a token sees must not depend on whether it was computed in the same step.
        """
        if self._kernels is not None and key.dtype is torch.float32:
            self._kernels.store(key, self._slots, self._cache.keys[layer])
            self._kernels.store(value, self._slots, self._cache.values[layer])
            if not self._groups and not self._segments:
                return key, value
            return key.to(self._cache.dtype), value.to(self._cache.dtype)
        key, value = key.to(self._cache.dtype), value.to(self._cache.dtype)
        self._cache.store(layer, self._slots, key, value)
        return key, value

    def _native(self, layer: int, past: Past, query: Tensor) -> Tensor:
        return past.attend(query.float(), self._cache.keys[layer], self._cache.values[layer]).to(query.dtype)

    def _decode(self, layer: int, group: _Group, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        shape, count, where = self._shape, group.count, slice(group.first, group.first + group.count)
        if group.table is None:
            keys, values = self._window.read(layer, key[where], value[where], group.length)
        else:
            keys, values = self._cache.read(layer, group.table, count)
        grouped = query[where].reshape(count, shape.n_kv_head, shape.n_head // shape.n_kv_head, shape.head_dim)
        seen = functional.scaled_dot_product_attention(
            grouped, keys.transpose(1, 2), values.transpose(1, 2), attn_mask=group.mask
        )
        return seen.reshape(count, shape.n_head * shape.head_dim)

    def _extend(self, layer: int, segment: _Segment, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        shape, rows = self._shape, segment.sequences
        where = slice(segment.first, segment.first + segment.count * rows)
        if segment.table is None:
            keys, values = _apart(key[where], rows), _apart(value[where], rows)
        else:
            keys, values = self._cache.read(layer, segment.table, 1)
            keys, values = keys[:, : segment.length], values[:, : segment.length]
        seen = functional.scaled_dot_product_attention(
            _apart(query[where], rows).transpose(1, 2),
            keys.transpose(1, 2).to(query.dtype),
            values.transpose(1, 2).to(query.dtype),
            attn_mask=segment.mask,
            is_causal=segment.mask is None,
            enable_gqa=shape.n_head != shape.n_kv_head,
        )
        return seen.transpose(1, 2).reshape(segment.count * rows, shape.n_head * shape.head_dim)

    def _grouped(self, rows: Sequence[Row], positions: Tensor) -> list[_Group]:
        """One group through the window; groups of like length where half of what that reads would be padding."""
        if not rows:
            return []
        size = self._cache.block_size
        longest = max(row.end for row in rows)
        if longest * len(rows) <= 2 * sum(row.end for row in rows):
            followed = self._window.follow(
                [row.number for row in rows], [row.start for row in rows], [row.table for row in rows]
            )
            if followed is not None:
                return [_Group(0, len(rows), None, longest, self._hiding(rows, longest, positions[: len(rows)]))]
        groups, first = [], 0
        for _, alike in groupby(rows, key=lambda row: _blocks(row, size).bit_length()):
            group = list(alike)
            blocks = max(_blocks(row, size) for row in group)
            groups.append(self._gathered(group, first, blocks, positions[first : first + len(group)]))
            first += len(group)
        return groups

    def _paged(self, rows: Sequence[Row], kernels: Kernels) -> Past:
        """All single tokens' pasts, read where they lie in their blocks."""
        size, shape = self._cache.block_size, self._shape
        width = max(_blocks(row, size) for row in rows)
        tables = [[*row.table[:width], *([self._cache.dump] * (width - len(row.table)))] for row in rows]
        lengths = self._ints([row.end for row in rows])
        heads = (shape.n_head, shape.n_kv_head, shape.head_dim)
        return kernels.past(self._ints(tables), lengths, size, heads, self._cache.dtype)

    def _gathered(self, rows: Sequence[Row], first: int, blocks: int, positions: Tensor) -> _Group:
        dump, length = self._cache.dump, blocks * self._cache.block_size
        table = [[*row.table[:blocks], *([dump] * (blocks - len(row.table)))] for row in rows]
        return _Group(first, len(rows), self._ints(table).flatten(), length, self._hiding(rows, length, positions))

    def _hiding(self, rows: Sequence[Row], length: int, positions: Tensor) -> Tensor | None:
        """What hides all but each row's own past, [rows, 1, 1, length]."""
        if all(row.end == length for row in rows):
            return None
        columns = torch.arange(length, device=self._device)
        return self._mask(columns > positions[:, None])[:, None, None]

    def _continued(self, row: Row, first: int, positions: Tensor) -> _Segment:
        count = len(row.tokens)
        columns = torch.arange(row.end, device=self._device)
        mask = self._mask(columns > positions[first : first + count, None])
        table = self._ints(list(row.table[: _blocks(row, self._cache.block_size)]))
        return _Segment(first, count, 1, table, row.end, mask)

    def _mask(self, hidden: Tensor) -> Tensor:
        """What is added to scores: nothing, or -inf where `hidden`."""
        return torch.zeros(hidden.shape, dtype=self._dtype, device=self._device).masked_fill_(hidden, -torch.inf)

    def _ints(self, values: list[int] | list[list[int]]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64).to(self._device, non_blocking=True)


def _apart(flat: Tensor, rows: int) -> Tensor:
    """[rows * T, H, D] -> [rows, T, H, D], without a copy."""
    return flat.view(rows, -1, *flat.shape[1:])
