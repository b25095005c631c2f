"""Who computes how many tokens in the next step. Pure policy: no clock, no tensors, no threads.

As in vLLM's V1 scheduler there are no phases: a step hands out tokens under one budget. Sequences that decode come
first (one token each), then prompts half computed, then waiting requests, first come first served, while slots are
free. A prompt longer than what is left of the budget is computed in chunks, so it cannot hold the others up.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

from engine.serving.request import SamplingParams
from engine.serving.text import StopFilter

NO_SLOT = -1


@dataclass(slots=True, eq=False)
class Generation:
    """One request inside the engine. `tokens` is the prompt, then what was generated; times are monotonic seconds."""

    number: int
    tokens: list[int]
    params: SamplingParams
    arrived_at: float = 0.0
    is_warmup: bool = False
    computed: int = 0
    """How many of `tokens` have their keys and values in the cache."""
    slot: int = NO_SLOT
    prompt_tokens: int = field(init=False)
    rng: random.Random = field(init=False)
    text: StopFilter = field(init=False)
    scheduled_at: float = 0.0
    first_token_at: float = 0.0
    last_token_at: float = 0.0

    def __post_init__(self) -> None:
        self.prompt_tokens = len(self.tokens)
        self.rng = random.Random(self.params.seed)
        self.text = StopFilter(self.params.stop)

    @property
    def pending(self) -> int:
        """Tokens not yet computed; 1 while decoding."""
        return len(self.tokens) - self.computed

    @property
    def completion_tokens(self) -> int:
        """Tokens generated so far."""
        return len(self.tokens) - self.prompt_tokens

    @property
    def is_decoding(self) -> bool:
        """Its prompt is computed: each further step adds one token."""
        return self.computed >= self.prompt_tokens


@dataclass(frozen=True, slots=True)
class Chunk:
    """In the next step, compute `count` tokens of a generation."""

    generation: Generation
    count: int

    @property
    def samples(self) -> bool:
        """The chunk reaches the end of what is known: the step yields a new token."""
        return self.count == self.generation.pending


class Scheduler:
    """Holds waiting and running generations and decides each step."""

    def __init__(self, max_batch: int, max_batch_tokens: int) -> None:
        self._max_batch_tokens = max_batch_tokens
        self._free_slots = list(range(max_batch - 1, -1, -1))
        self.waiting: deque[Generation] = deque()
        self.running: list[Generation] = []

    @property
    def has_work(self) -> bool:
        """Something waits or runs."""
        return bool(self.waiting or self.running)

    def add(self, generation: Generation) -> None:
        """Queue a generation behind those that wait."""
        self.waiting.append(generation)

    def remove(self, generation: Generation) -> None:
        """Forget a generation and free its slot. Its cache entries need no clearing: masks never reach them."""
        if generation.slot == NO_SLOT:
            self.waiting.remove(generation)
            return
        self.running.remove(generation)
        self._free_slots.append(generation.slot)
        # Lowest slot first keeps the live slots a prefix of the cache, which the runner can read without a copy.
        self._free_slots.sort(reverse=True)
        generation.slot = NO_SLOT

    def schedule(self) -> list[Chunk]:
        """The next step. Moves generations from waiting to running as slots and budget allow."""
        budget = self._max_batch_tokens
        chunks = [Chunk(generation, 1) for generation in self.running if generation.is_decoding]
        budget -= len(chunks)
        for generation in self.running:
            if budget > 0 and not generation.is_decoding:
                budget -= self._take(generation, budget, chunks)
        while budget > 0 and self.waiting and self._free_slots:
            generation = self.waiting.popleft()
            generation.slot = self._free_slots.pop()
            self.running.append(generation)
            budget -= self._take(generation, budget, chunks)
        return chunks

    @staticmethod
    def _take(generation: Generation, budget: int, chunks: list[Chunk]) -> int:
        count = min(generation.pending, budget)
        chunks.append(Chunk(generation, count))
        return count
