"""The engine, one step at a time: schedule, run, sample, report. Synchronous: the loop around it owns the thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from engine.serving.compute.attention import Row
from engine.serving.compute.blocks import BlockPool
from engine.serving.compute.penalties import asks_for_it
from engine.serving.compute.runner import StepRunner
from engine.serving.compute.sampling import Chosen, Draw, sample
from engine.serving.compute.scheduler import Chunk, Generation, Scheduler
from engine.serving.request import ErrorKind, FinishReason, SamplingParams, Update
from engine.serving.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Finished:
    """What one generation amounted to; times in seconds."""

    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    max_tokens: int
    queue_s: float
    prefill_s: float
    decode_s: float
    e2e_s: float
    cached_tokens: int = 0
    """Prompt tokens that were found in the prefix cache."""


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step did. Warm-up generations appear in `updates` only."""

    updates: tuple[Update, ...] = ()
    computed_tokens: int = 0
    generated_tokens: int = 0
    first_token_s: tuple[float, ...] = ()
    gaps_s: tuple[float, ...] = ()
    finished: tuple[Finished, ...] = ()
    preemptions: int = 0
    """Generations that had to give their cache up, in this step."""
    prefix_queries: int = 0
    """Prompt tokens looked up in the prefix cache, in this step."""
    prefix_hits: int = 0
    """Those found there."""


class _Step:
    """A step's report while it is being written."""

    def __init__(self) -> None:
        self.updates: list[Update] = []
        self.generated = 0
        self.first_token_s: list[float] = []
        self.gaps_s: list[float] = []
        self.finished: list[Finished] = []

    def report(self, computed: int, preemptions: int, prefix_queries: int, prefix_hits: int) -> StepReport:
        return StepReport(
            updates=tuple(self.updates),
            computed_tokens=computed,
            generated_tokens=self.generated,
            first_token_s=tuple(self.first_token_s),
            gaps_s=tuple(self.gaps_s),
            finished=tuple(self.finished),
            preemptions=preemptions,
            prefix_queries=prefix_queries,
            prefix_hits=prefix_hits,
        )


class EngineCore:
    """Generations in, one report a step out."""

    def __init__(
        self,
        runner: StepRunner,
        tokenizer: Tokenizer,
        blocks: BlockPool,
        *,
        max_batch: int,
        max_batch_tokens: int,
        prefix_cache: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.runner = runner
        self._tokenizer = tokenizer
        self._clock = clock
        self.blocks = blocks
        self._scheduler = Scheduler(max_batch, max_batch_tokens, blocks, prefix_cache=prefix_cache)
        self._live: dict[int, Generation] = {}

    @property
    def has_work(self) -> bool:
        """A step would do something."""
        return self._scheduler.has_work

    @property
    def waiting(self) -> int:
        """Generations that have not begun, or had to give way."""
        return len(self._scheduler.waiting)

    @property
    def running(self) -> int:
        """Generations under way."""
        return len(self._scheduler.running)

    @property
    def cache_usage(self) -> float:
        """The share of the KV cache that is in use, 0 to 1."""
        return self.blocks.used / self.blocks.count

    def add(
        self, number: int, tokens: Sequence[int], params: SamplingParams, *, arrived_at: float, is_warmup: bool = False
    ) -> None:
        """Queue a generation. The caller has checked that prompt and `max_tokens` fit the context."""
        generation = Generation(
            number, list(tokens), params, self._tokenizer.stream(), arrived_at=arrived_at, is_warmup=is_warmup
        )
        self._live[number] = generation
        self._scheduler.add(generation)

    def cancel(self, number: int) -> Finished | None:
        """Drop a generation at once; None when it is not there (any more)."""
        generation = self._live.get(number)
        if generation is None:
            return None
        return self._end(generation, FinishReason.ABORT, self._clock())

    def step(self) -> StepReport:
        """Do one step. Errors other than running out of memory propagate: the engine cannot vouch for itself then."""
        scheduler = self._scheduler
        before = scheduler.preemptions, scheduler.prefix_queries, scheduler.prefix_hits
        chunks = scheduler.schedule()
        started = self._clock()
        for chunk in chunks:
            if not chunk.generation.scheduled_at:
                chunk.generation.scheduled_at = started
        step = _Step()
        if chunks:
            self._compute(chunks, step)
        after = scheduler.preemptions, scheduler.prefix_queries, scheduler.prefix_hits
        return step.report(sum(chunk.count for chunk in chunks), *(b - a for a, b in zip(before, after, strict=True)))

    def _compute(self, chunks: list[Chunk], step: _Step) -> None:
        """Run chunks together. Out of memory: run halves, down to the one request that alone is too much."""
        rows = [
            Row(g.number, g.table, g.computed, g.tokens[g.computed : g.computed + chunk.count], chunk.samples)
            for chunk in chunks
            for g in (chunk.generation,)
        ]
        try:
            logits = self.runner.run(rows)
            samplers = [chunk.generation for chunk in chunks if chunk.samples]
            chosen = sample(logits, [_draw(generation) for generation in samplers]) if samplers else []
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if len(chunks) == 1:
                self._fail(chunks[0].generation, ErrorKind.OUT_OF_MEMORY, step)
                return
            middle = len(chunks) // 2
            self._compute(chunks[:middle], step)
            self._compute(chunks[middle:], step)
            return
        for chunk in chunks:
            self._scheduler.computed(chunk)
        now = self._clock()
        for generation, choice in zip(samplers, chosen, strict=True):
            if choice.token is None:
                # What it left in the cache cannot be trusted either, and would spoil whoever gets its blocks.
                self.blocks.forget_all()
                self.runner.wipe(self.blocks.held_alone(generation.table))
                self._fail(generation, ErrorKind.NOT_A_NUMBER, step)
            else:
                self._append(generation, choice.token, choice, now, step)

    def _append(self, generation: Generation, token: int, choice: Chosen, now: float, step: _Step) -> None:
        params = generation.params
        generation.tokens.append(token)
        generation.uniform = generation.rng.random()
        step.generated += 1
        if generation.completion_tokens == 1:
            generation.first_token_at = now
            if not generation.is_warmup:
                step.first_token_s.append(now - generation.arrived_at)
        elif not generation.is_warmup:
            step.gaps_s.append(now - generation.last_token_at)
        generation.last_token_at = now
        ends = token in params.stop_token_ids or (token in self._tokenizer.eos_ids and not params.ignore_eos)
        text, finish = self._text(generation, token, ends)
        logprobs = (choice.logprobs,) if choice.logprobs is not None else ()
        step.updates.append(Update(generation.number, text, generation.completion_tokens, finish, logprobs=logprobs))
        if finish is not None:
            self._close(generation, finish, now, step)

    @staticmethod
    def _text(generation: Generation, token: int, ends: bool) -> tuple[str, FinishReason | None]:
        """What the token adds to the answer, and whether it ends it. A token that ends it is not shown."""
        shown, stopped = generation.text.push("" if ends else generation.stream.push(token))
        is_full = generation.completion_tokens >= generation.params.max_tokens
        if not stopped and (ends or is_full):
            rest, stopped = generation.text.push(generation.stream.flush())
            shown += rest if stopped else rest + generation.text.flush()
        if stopped or ends:
            return shown, FinishReason.STOP
        return shown, FinishReason.LENGTH if is_full else None

    def _fail(self, generation: Generation, kind: ErrorKind, step: _Step) -> None:
        step.updates.append(Update(generation.number, "", generation.completion_tokens, FinishReason.ERROR, kind))
        self._close(generation, FinishReason.ERROR, self._clock(), step)

    def _close(self, generation: Generation, reason: FinishReason, now: float, step: _Step) -> None:
        finished = self._end(generation, reason, now)
        if not generation.is_warmup:
            step.finished.append(finished)

    def _end(self, generation: Generation, reason: FinishReason, now: float) -> Finished:
        self._scheduler.remove(generation)
        del self._live[generation.number]
        scheduled = generation.scheduled_at or now
        first = generation.first_token_at or now
        return Finished(
            reason=reason,
            prompt_tokens=generation.prompt_tokens,
            completion_tokens=generation.completion_tokens,
            max_tokens=generation.params.max_tokens,
            queue_s=scheduled - generation.arrived_at,
            prefill_s=first - scheduled,
            decode_s=now - first,
            e2e_s=now - generation.arrived_at,
            cached_tokens=generation.cached_tokens,
        )


def _draw(generation: Generation) -> Draw:
    """What sampling must know of a generation; its answer is copied only where a penalty asks for it."""
    params, uniform = generation.params, generation.uniform
    if not asks_for_it(params):
        return Draw(params, uniform)
    middle = generation.prompt_tokens
    return Draw(params, uniform, generation.tokens[:middle], generation.tokens[middle:])


def _is_out_of_memory(error: Exception) -> bool:
    """CUDA says it with a type, the CPU allocator only with words."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return "allocate memory" in str(error)
