"""Running the model for one step: rows of tokens in, next-token logits out. Mechanism only; the scheduler decides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from engine.serving.compute.attention import Row, StepAttention, order
from engine.serving.compute.graphs import CudaCapture, DecodeGraphs
from engine.serving.compute.kv_cache import PagedCache
from engine.serving.compute.native.kernels import Kernels
from engine.serving.compute.widths import PaddedAttend, padded_width
from engine.serving.compute.window import Window
from engine.serving.models.decoder import Attend, Decoder

WINDOW_BYTES = 64 << 20
"""The most that a batch's keys and values may take beside their blocks, so as not to be gathered at every step."""


class StepRunner(Protocol):
    """What the engine needs of a runner."""

    def run(self, rows: Sequence[Row]) -> Tensor:
        """Compute the rows together; the logits float32 [n, V] after each row that wants them, in the rows' order."""
        ...

    def wipe(self, blocks: Sequence[int]) -> None:
        """Make nothing of what blocks of the cache hold: it is not numbers."""
        ...


class Runner:
    """Runs a model over a paged cache. A row's answer does not depend on the other rows, but for the last bits of sums."""

    def __init__(
        self,
        model: Decoder,
        cache: PagedCache,
        device: torch.device,
        dtype: torch.dtype,
        kernels: Kernels | None = None,
    ) -> None:
        """`dtype` is that of the activations. `kernels`: what single new tokens attend by, if they shall."""
        self._model = model
        self._device, self._dtype = device, dtype
        self.cache = cache
        self._kernels = kernels
        self._window = Window(cache, WINDOW_BYTES)
        self._graphs = DecodeGraphs(model, cache, dtype, CudaCapture()) if device.type == "cuda" else None

    @torch.inference_mode()
    def run(self, rows: Sequence[Row]) -> Tensor:
        """See StepRunner."""
        if self._graphs is not None and all(len(row.tokens) == 1 and row.wants_logits for row in rows):
            logits = self._graphs.run(rows)
            if logits is not None:
                return logits
        size = self.cache.block_size
        places = order(rows, size)
        ordered = [rows[place] for place in places]
        numbers = [
            [token for row in ordered for token in row.tokens],
            [position for row in ordered for position in range(row.start, row.end)],
            [
                row.table[position // size] * size + position % size
                for row in ordered
                for position in range(row.start, row.end)
            ],
        ]
        tokens, positions, slots = torch.tensor(numbers, dtype=torch.int64).to(self._device, non_blocking=True)
        shape = self._model.shape
        attend = StepAttention(ordered, self.cache, self._window, shape, positions, slots, self._dtype, self._kernels)
        hidden = self._hidden(tokens, positions, attend)
        return self._model.head(hidden[self._ends(rows, places)]).float()

    @torch.inference_mode()
    def wipe(self, blocks: Sequence[int]) -> None:
        """See StepRunner."""
        self.cache.wipe(blocks)

    def _hidden(self, tokens: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """The model's hidden states, with rows of nothing behind them where its products keep code for every width."""
        count = tokens.shape[0]
        width = padded_width(count)
        if width == count or self._device.type != "cpu":
            return self._model.hidden(tokens, positions, attend)
        behind = (0, width - count)
        padded = PaddedAttend(attend, count, width)
        return self._model.hidden(functional.pad(tokens, behind), functional.pad(positions, behind), padded)

    def _ends(self, rows: Sequence[Row], places: Sequence[int]) -> Tensor:
        """Where in the step the last token of each row that wants logits is, in the rows' own order."""
        ends, after = [0] * len(rows), 0
        for place in places:
            after += len(rows[place].tokens)
            ends[place] = after - 1
        wanted = [end for end, row in zip(ends, rows, strict=True) if row.wants_logits]
        return torch.tensor(wanted, dtype=torch.int64).to(self._device, non_blocking=True)
