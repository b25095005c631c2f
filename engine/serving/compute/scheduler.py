"""Who computes how many tokens in the next step. Pure policy: no clock, no tensors, no threads.

As in vLLM's V1 scheduler there are no phases: a step hands out tokens under one budget. Sequences that decode come
first (one token each), then prompts half computed, then waiting requests by priority and arrival, while the batch and
the cache have room. A prompt longer than what is left of the budget is computed in chunks, so it cannot hold the others
up. When the cache is full, the sequence that came last gives its blocks up and is computed again later; so does one of a
less urgent class when the batch or the cache has no room for a more urgent one.
"""

from __future__ import annotations

import random
from bisect import insort
from dataclasses import dataclass, field

from engine.serving.compute.blocks import BlockPool
from engine.serving.request import SamplingParams
from engine.serving.text import StopFilter
from engine.serving.tokenizer import TextStream


@dataclass(slots=True, eq=False)
class Generation:
    """One request inside the engine. `tokens` is the prompt, then what was generated; times are monotonic seconds."""

    number: int
    tokens: list[int]
    params: SamplingParams
    stream: TextStream
    arrived_at: float = 0.0
    is_warmup: bool = False
    computed: int = 0
    """How many of `tokens` have their keys and values in the cache."""
    cached_tokens: int = 0
    """How many of them were found there when it first began."""
    table: list[int] = field(default_factory=list)
    """Its blocks of the cache, in order."""
    is_running: bool = False
    prompt_tokens: int = field(init=False)
    order: tuple[int, int] = field(init=False)
    rng: random.Random = field(init=False)
    uniform: float = field(init=False)
    """The random number of the next token; drawn once, however often that token's step is tried."""
    text: StopFilter = field(init=False)
    scheduled_at: float = 0.0
    first_token_at: float = 0.0
    last_token_at: float = 0.0

    def __post_init__(self) -> None:
        self.prompt_tokens = len(self.tokens)
        self.order = (self.params.priority, self.number)
        self.rng = random.Random(self.params.seed)
        self.uniform = self.rng.random()
        self.text = StopFilter(self.params.stop)

    @property
    def pending(self) -> int:
        """Tokens not yet computed; 1 while decoding."""
        return len(self.tokens) - self.computed

    @property
    def completion_tokens(self) -> int:
        """Tokens generated so far."""
        return len(self.tokens) - self.prompt_tokens


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

    def __init__(self, max_batch: int, max_batch_tokens: int, blocks: BlockPool, *, prefix_cache: bool = True) -> None:
        self._max_batch = max_batch
        self._max_batch_tokens = max_batch_tokens
        self.blocks = blocks
        self._shares_prefixes = prefix_cache
        self.waiting: list[Generation] = []
        """In the order in which they will be served."""
        self.running: list[Generation] = []
        """In the order in which they give way: the last one first."""
        self.preemptions = 0
        self.prefix_queries = 0
        """Prompt tokens looked up in the prefix cache."""
        self.prefix_hits = 0
        """Prompt tokens found there."""

    @property
    def has_work(self) -> bool:
        """Something waits or runs."""
        return bool(self.waiting or self.running)

    def add(self, generation: Generation) -> None:
        """Queue a generation behind those of its priority that wait."""
        insort(self.waiting, generation, key=lambda one: one.order)

    def remove(self, generation: Generation) -> None:
        """Forget a generation and free its blocks."""
        if generation.is_running:
            self.running.remove(generation)
            generation.is_running = False
        else:
            self.waiting.remove(generation)
        self.blocks.give_back(generation.table)

    def computed(self, chunk: Chunk) -> None:
        """The chunk was computed: its generation moves on, and full blocks are remembered."""
        one, start = chunk.generation, chunk.generation.computed
        one.computed += chunk.count
        if self._shares_prefixes:
            self.blocks.remember(one.table, one.tokens, start, one.computed)

    def schedule(self) -> list[Chunk]:
        """The next step. Moves generations between waiting and running as batch, budget and cache allow."""
        self._yield_to_the_urgent()
        budget, before = self._max_batch_tokens, self.preemptions
        chunks: list[Chunk] = []
        # Decoding sequences first; among those that do not, whoever began first.
        for one in sorted(self.running, key=lambda one: one.pending > 1):
            if budget <= 0:
                break
            if not one.is_running:
                continue
            count = min(one.pending, budget)
            if self._has_room(one, one.computed + count):
                chunks.append(Chunk(one, count))
                budget -= count
        if self.preemptions > before:
            # What was handed out to a sequence that gave way afterwards is taken back, and nobody else begins: whoever
            # gave way would find its own blocks again, and give way again.
            return [chunk for chunk in chunks if chunk.generation.is_running]
        while budget > 0 and self.waiting and len(self.running) < self._max_batch:
            one = self.waiting[0]
            if not self._begin(one):
                break
            count = min(one.pending, budget)
            chunks.append(Chunk(one, count))
            budget -= count
        return chunks

    def _yield_to_the_urgent(self) -> None:
        """Whoever is of a less urgent class than the first that waits gives way to it, the last one first.

        Otherwise a batch full of jobs, which may take an hour each, would let nobody else in for as long.
        """
        while self.waiting and self.running and not self._fits(self.waiting[0]):
            if self.running[-1].params.priority <= self.waiting[0].params.priority:
                return
            self._preempt(self.running[-1])

    def _fits(self, one: Generation) -> bool:
        """Whether there are a place and blocks for a generation that waits."""
        if len(self.running) >= self._max_batch:
            return False
        found = self.blocks.match(one.tokens) if self._shares_prefixes else []
        fits = self.blocks.needed(len(one.tokens)) - len(found) <= self.blocks.free
        self.blocks.give_back(found)
        return fits

    def _begin(self, one: Generation) -> bool:
        """Let the first of those that wait run, if the cache takes all that is known of it."""
        found = self.blocks.match(one.tokens) if self._shares_prefixes else []
        needed = self.blocks.needed(len(one.tokens)) - len(found)
        if needed > self.blocks.free:
            self.blocks.give_back(found)
            return False
        one.table = found
        one.computed = len(found) * self.blocks.size
        if not one.completion_tokens and self._shares_prefixes:
            one.cached_tokens = one.computed
            self.prefix_queries += one.prompt_tokens
            self.prefix_hits += one.computed
        for _ in range(needed):
            block = self.blocks.take()
            assert block is not None
            one.table.append(block)
        self.waiting.pop(0)
        one.is_running = True
        insort(self.running, one, key=lambda other: other.order)
        return True

    def _has_room(self, one: Generation, length: int) -> bool:
        """Have blocks for `length` tokens, taking them from sequences that came later if need be."""
        while len(one.table) < self.blocks.needed(length):
            block = self.blocks.take()
            if block is None:
                last = self.running[-1]
                self._preempt(last)
                if last is one:
                    return False
                continue
            one.table.append(block)
        return True

    def _preempt(self, one: Generation) -> None:
        """Take its blocks and let it wait again; its tokens are computed anew when its turn comes."""
        self.preemptions += 1
        self.running.remove(one)
        one.is_running = False
        one.computed = 0
        self.blocks.give_back(one.table)
        self.add(one)
