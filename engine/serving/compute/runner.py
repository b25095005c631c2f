"""Running the model for one step: rows of tokens in, next-token logits out. Mechanism only; the scheduler decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from engine.serving.compute.kv_cache import SlotCache
from engine.serving.loader import LoadedModel


@dataclass(frozen=True, slots=True)
class Row:
    """Some consecutive tokens of one sequence: they go to positions `start`, `start`+1, … of cache slot `slot`."""

    slot: int
    start: int
    tokens: Sequence[int]


class StepRunner(Protocol):
    """What the engine needs of a runner."""

    def run(self, rows: Sequence[Row]) -> Tensor:
        """Compute the rows together; returns the logits float32 [rows, V] after each row's last token."""
        ...


class Runner:
    """Runs a loaded model with a slot cache of its own.

    A row's answer does not depend on the other rows: shorter ones are padded, the padding's keys and values go to a
    position nobody reads, and each token sees exactly the positions up to its own.
    """

    def __init__(self, loaded: LoadedModel, slots: int) -> None:
        self._model = loaded.model
        self._device = loaded.device
        self._block_size = loaded.config.block_size
        self.cache = SlotCache(loaded.config, slots, self._device, loaded.model.token_embedding.weight.dtype)
        self._columns = torch.arange(self._block_size, device=self._device)

    @torch.inference_mode()
    def run(self, rows: Sequence[Row]) -> Tensor:
        """See StepRunner. Rows may differ in start and length."""
        width = max(len(row.tokens) for row in rows)
        live = max(row.start + len(row.tokens) for row in rows)
        if live > self._block_size:
            raise ValueError(f"a sequence of {live} tokens does not fit the context of {self._block_size}")
        packed, is_prefix, is_aligned = self._pack(rows, width)
        slots, last = packed[0, :, 0], packed[1, :, 0]
        tokens, positions = packed[2], packed[3]
        mask = None
        if width > 1 or not is_aligned:
            mask = (self._columns[:live] <= positions[:, :, None])[:, None]
        view = self.cache.view(slots, is_prefix, positions, live)
        hidden = self._model.extend(tokens, positions.clamp(max=self._block_size - 1), view, mask)
        ends = hidden[:, 0] if width == 1 else hidden[torch.arange(len(rows), device=self._device), last]
        return self._model.head(ends).float()

    def _pack(self, rows: Sequence[Row], width: int) -> tuple[Tensor, bool, bool]:
        """All integers of a step as one tensor [4, rows, width], so that a GPU needs one copy.

        Planes: slot and index of the last token (in column 0), tokens, positions. Also says whether the slots are
        0..n-1 and whether all rows start at the same position.
        """
        dump = self.cache.dump
        slots, lasts, tokens, positions = [], [], [], []
        for row in rows:
            count = len(row.tokens)
            padding = width - count
            slots.append([row.slot] * width)
            lasts.append([count - 1] * width)
            tokens.append([*row.tokens, *([0] * padding)])
            positions.append([*range(row.start, row.start + count), *([dump] * padding)])
        packed = torch.tensor([slots, lasts, tokens, positions], dtype=torch.int64)
        is_prefix = all(row.slot == index for index, row in enumerate(rows))
        is_aligned = all(row.start == rows[0].start for row in rows)
        return packed.to(self._device, non_blocking=True), is_prefix, is_aligned
