"""The training loop: AdamW, warm-up then cosine, clipped gradients; the same weights for the same seed.

A batch depends on the seed and its step alone. On a CPU it is cut into shards, one a thread, whose gradients are added in
order: threads meet once a step, not hundreds of times as they do inside torch's operators, where one thread that the
system has put aside for a moment holds up all others. Arithmetic is repeatable on one kind of machine with one
number of shards: both are recorded beside the weights.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from engine.pipelines.stages.adamw import AdamW
from engine.serving.models.gpt import GPT

MIN_LR_SHARE = 0.1
"""The cosine ends at this share of the highest learning rate."""
BETAS = (0.9, 0.99)
WEIGHT_DECAY = 0.1
CLIP_NORM = 1.0
MARKS = 10
"""How many times a training is measured on held-out text."""
SHARD_SEQUENCES = 8
"""A shard of fewer sequences costs more in Python than its thread saves."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train. `dtype` is what the forward pass computes in; weights and optimiser stay float32.

    A batch is cut into `shards` parts that are computed side by side.
    """

    steps: int
    batch: int
    lr: float
    warmup_steps: int
    seed: int
    dtype: torch.dtype
    device: torch.device
    shards: int = 1


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a training is. `loss` is the mean since the last report, in nats a character; `is_mark`: time to measure."""

    step: int
    loss: float
    lr: float
    tokens_per_s: float
    eta_s: float
    is_mark: bool


@dataclass(slots=True)
class LossCurve:
    """Every step's loss, and what a gate wants to know of it."""

    losses: list[float] = field(default_factory=list)

    @property
    def is_finite(self) -> bool:
        """No NaN and no infinity so far."""
        return not self.losses or math.isfinite(self.losses[-1])

    def smoothed(self) -> list[float]:
        """Means of some twenty equal stretches of steps, in order; a remainder at the start is left out."""
        width = max(1, len(self.losses) // 20)
        starts = range(len(self.losses) % width, len(self.losses), width)
        return [sum(self.losses[i : i + width]) / width for i in starts]

    def divergence(self) -> float | None:
        """The last smoothed loss over the best one: 1 when the end is the best, None when it is no number."""
        means = self.smoothed()
        return means[-1] / min(means) if means and self.is_finite else None

    def drop(self) -> float | None:
        """The last smoothed loss over the first step's: below 1 when anything was learned."""
        return self.smoothed()[-1] / self.losses[0] if self.losses and self.is_finite else None


def learning_rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then a cosine down to MIN_LR_SHARE (Loshchilov & Hutter 2017, eq. 5, without restarts)."""
    if step < recipe.warmup_steps:
        return recipe.lr * (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    return recipe.lr * (MIN_LR_SHARE + (1 - MIN_LR_SHARE) * 0.5 * (1 + math.cos(math.pi * done)))


def train(model: GPT, tokens: Tensor, recipe: Recipe, report: Callable[[Progress], None]) -> LossCurve:
    """Train `model` in place on `tokens` (int64 [N], N > block_size + 1) and return its losses.

    `report` is called about once a second and at each of MARKS marks. Ends early when the loss is no finite number.
    """
    curve = LossCurve()
    marks = {round(recipe.steps * (i + 1) / MARKS) for i in range(MARKS)}
    began = said = time.monotonic()
    unsaid = 0
    model.train()
    with _stepper(model, tokens, recipe) as step_once:
        for step in range(recipe.steps):
            lr = learning_rate(step, recipe)
            curve.losses.append(step_once(step, lr))
            unsaid += 1
            if not curve.is_finite:
                break
            now = time.monotonic()
            is_mark = step + 1 in marks
            if is_mark or now - said >= 1.0:
                speed = (step + 1) / (now - began)
                report(
                    Progress(
                        step=step + 1,
                        loss=sum(curve.losses[-unsaid:]) / unsaid,
                        lr=lr,
                        tokens_per_s=speed * recipe.batch * model.config.block_size,
                        eta_s=(recipe.steps - step - 1) / speed,
                        is_mark=is_mark,
                    )
                )
                said, unsaid = time.monotonic(), 0
    return curve


@contextlib.contextmanager
def _stepper(model: GPT, tokens: Tensor, recipe: Recipe) -> Iterator[Callable[[int, float], float]]:
    """A function that takes one optimiser step (step, learning rate) and returns its loss, nats a character."""
    optimizer = AdamW(model.parameters(), betas=BETAS, weight_decay=WEIGHT_DECAY)
    parameters = list(model.parameters())
    offsets = torch.arange(model.config.block_size + 1)

    def gradients(batch: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """The share of the loss, and of its gradients, of a shard int64 [B', block+1] of the batch."""
        with torch.autocast(recipe.device.type, recipe.dtype, recipe.dtype != torch.float32):
            logits = model(batch[:, :-1])
        loss = functional.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten(), reduction="sum")
        share = loss / (recipe.batch * model.config.block_size)
        return share.detach(), torch.autograd.grad(share, parameters)

    def step_once(step: int, lr: float) -> float:
        starts = torch.randint(len(tokens) - len(offsets) + 1, (recipe.batch,), generator=_generator(recipe.seed, step))
        shards = tokens[starts[:, None] + offsets].to(recipe.device).chunk(recipe.shards)
        with _fast_attention(recipe.device):
            others = [pool.submit(gradients, shard) for shard in shards[1:]]
            parts = [gradients(shards[0]), *(other.result() for other in others)]
        for parameter, *grads in zip(parameters, *(grads for _, grads in parts), strict=True):
            parameter.grad = sum(grads[1:], start=grads[0])
        nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
        optimizer.step(lr)
        return float(sum(loss for loss, _ in parts))

    with ThreadPoolExecutor(max(1, recipe.shards - 1), "shard", torch.set_num_threads, (1,)) as pool:
        yield step_once


def _generator(seed: int, step: int) -> torch.Generator:
    """A source of randomness for one step of one seed."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**63)


def _fast_attention(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """On a CPU, short sequences train 1.4 to 1.6 times faster with plain matrix products than with its flash kernel.

    The choice is the process's, so it is made around all shards of a step.
    """
    if device.type == "cpu":
        return sdpa_kernel(SDPBackend.MATH)
    return contextlib.nullcontext()


def shards_of(batch: int, threads: int) -> int:
    """How many shards a batch is worth: one a thread, none of them too small."""
    return max(1, min(threads, batch // SHARD_SEQUENCES))


@contextlib.contextmanager
def repeatable(seed: int) -> Iterator[None]:
    """Seeded, deterministic algorithms, one thread an operator; what was set before is set again after."""
    before = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    torch.set_num_threads(1)
    torch.set_deterministic_debug_mode("warn")  # as use_deterministic_algorithms, which imports all of the compiler
    torch.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.set_deterministic_debug_mode(before[1])
