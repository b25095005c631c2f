"""Does what was written compute what the model computes? Logits on many shapes, and greedy text, position by position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.serving.export.formats import Logits
from engine.serving.tokenizer import Tokenizer
from state.words import GateRefused

RELATIVE_TOLERANCE = 5e-4
"""Of the largest logit. Sums in another order, over 30 layers, were seen to differ by 10⁻⁴; rounding to bfloat16 would by 4·10⁻³."""
GREEDY_TOKENS = 16
MOST_LENGTH = 256
PROMPTS = (
    "To be, or not to be",
    "The capital of France is",
    "def add(a, b):\n    return",
    "Once upon a time",
    "O Romeo, Romeo, wherefore art thou",
    "1, 2, 3, 4,",
    "A load balancer is",
    "x",
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was compared and found."""

    shapes: int
    prompts: int
    greedy_tokens: int
    max_abs_diff: float
    largest_logit: float

    @property
    def tolerance(self) -> float:
        """The largest difference that passes."""
        return RELATIVE_TOLERANCE * max(1.0, self.largest_logit)


def compare(model: Logits, exported: Logits, tokenizer: Tokenizer, *, vocab_size: int, context: int) -> Comparison:
    """Compare on every shape and prompt. Raises GateRefused at the first difference that is one."""
    worst, largest = 0.0, 0.0
    shapes = probe_shapes(context)
    random = np.random.default_rng(0)
    for batch, length in shapes:
        tokens = random.integers(0, vocab_size, (batch, length), dtype=np.int64)
        expected, found = model(tokens), exported(tokens)
        if expected.shape != found.shape or not np.isfinite(found).all():
            raise GateRefused(
                f"the export answers tokens {batch}x{length} with {found.shape}, the model with {expected.shape}, "
                "or not with numbers; nothing was written",
                code="export_differs",
            )
        worst = max(worst, float(np.abs(expected - found).max()))
        largest = max(largest, float(np.abs(expected).max()))
    count = min(GREEDY_TOKENS, context - 1)
    prompts = [tokenizer.encode(text)[-(context - count) :] for text in PROMPTS]
    comparison = Comparison(len(shapes), len(prompts), count, worst, largest)
    if worst > comparison.tolerance:
        raise GateRefused(
            f"the export's logits differ by {worst:.3g}, more than {comparison.tolerance:.3g}; nothing was written",
            code="export_differs",
        )
    for text, prompt in zip(PROMPTS, prompts, strict=True):
        ours, theirs = greedy(model, prompt, count), greedy(exported, prompt, count)
        if ours != theirs:
            raise GateRefused(
                f"the export continues {text!r} with {tokenizer.decode(theirs)!r}, the model with "
                f"{tokenizer.decode(ours)!r}; nothing was written",
                code="export_differs",
            )
    return comparison


def probe_shapes(context: int) -> Sequence[tuple[int, int]]:
    """Batch and length of what is compared: one token, a full context, and others than it was exported with."""
    longest = min(context, MOST_LENGTH)
    wanted = ((1, 1), (1, longest), (2, max(1, longest // 2)), (3, min(7, longest)), (5, 1))
    return tuple(dict.fromkeys(wanted))


def greedy(logits: Logits, prompt: Sequence[int], count: int) -> list[int]:
    """The likeliest continuation of `prompt`, `count` tokens."""
    tokens = list(prompt)
    for _ in range(count):
        row: NDArray[np.float32] = logits(np.asarray([tokens], dtype=np.int64))[0, -1]
        tokens.append(int(row.argmax()))
    return tokens[len(prompt) :]
