"""The engine, one step at a time: schedule, run, sample, report. Synchronous: the loop around it owns the thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.serving.compute.runner import Row, StepRunner
from engine.serving.compute.sampling import sample
from engine.serving.compute.scheduler import Chunk, Generation, Scheduler
from engine.serving.request import ErrorKind, FinishReason, SamplingParams, Update
from engine.serving.tokenizer import CharTokenizer


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


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step did. Warm-up generations appear in `updates` only."""

    updates: tuple[Update, ...] = ()
    computed_tokens: int = 0
    generated_tokens: int = 0
    first_token_s: tuple[float, ...] = ()
    gaps_s: tuple[float, ...] = ()
    finished: tuple[Finished, ...] = ()


class _Step:
    """A step's report while it is being written."""

    def __init__(self) -> None:
        self.updates: list[Update] = []
        self.generated = 0
        self.first_token_s: list[float] = []
        self.gaps_s: list[float] = []
        self.finished: list[Finished] = []

    def report(self, computed: int) -> StepReport:
        return StepReport(
            updates=tuple(self.updates),
            computed_tokens=computed,
            generated_tokens=self.generated,
            first_token_s=tuple(self.first_token_s),
            gaps_s=tuple(self.gaps_s),
            finished=tuple(self.finished),
        )


class EngineCore:
    """Generations in, one report a step out."""

    def __init__(
        self,
        runner: StepRunner,
        tokenizer: CharTokenizer,
        *,
        max_batch: int,
        max_batch_tokens: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._runner = runner
        self._tokenizer = tokenizer
        self._clock = clock
        self._scheduler = Scheduler(max_batch, max_batch_tokens)
        self._live: dict[int, Generation] = {}

    @property
    def has_work(self) -> bool:
        """A step would do something."""
        return self._scheduler.has_work

    @property
    def waiting(self) -> int:
        """Generations without a slot."""
        return len(self._scheduler.waiting)

    @property
    def running(self) -> int:
        """Generations with a slot."""
        return len(self._scheduler.running)

    @property
    def cached_tokens(self) -> int:
        """Positions of the KV cache in use."""
        return sum(generation.computed for generation in self._scheduler.running)

    def add(
        self, number: int, tokens: Sequence[int], params: SamplingParams, *, arrived_at: float, is_warmup: bool = False
    ) -> None:
        """Queue a generation. The caller has checked that prompt and `max_tokens` fit the context."""
        generation = Generation(number, list(tokens), params, arrived_at=arrived_at, is_warmup=is_warmup)
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
        chunks = self._scheduler.schedule()
        started = self._clock()
        for chunk in chunks:
            if chunk.generation.computed == 0:
                chunk.generation.scheduled_at = started
        step = _Step()
        sampled: list[tuple[Generation, Tensor]] = []
        for group in (
            [chunk for chunk in chunks if chunk.count == 1],
            [chunk for chunk in chunks if chunk.count > 1],
        ):
            if group:
                self._compute(group, sampled, step)
        if sampled:
            self._sample(sampled, step)
        return step.report(sum(chunk.count for chunk in chunks))

    def _compute(self, chunks: list[Chunk], sampled: list[tuple[Generation, Tensor]], step: _Step) -> None:
        """Run chunks together. Out of memory: run halves, down to the one request that alone is too much."""
        rows = [
            Row(g.slot, g.computed, g.tokens[g.computed : g.computed + chunk.count])
            for chunk in chunks
            for g in (chunk.generation,)
        ]
        try:
            logits = self._runner.run(rows)
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if len(chunks) == 1:
                self._fail(chunks[0].generation, ErrorKind.OUT_OF_MEMORY, step)
                return
            middle = len(chunks) // 2
            self._compute(chunks[:middle], sampled, step)
            self._compute(chunks[middle:], sampled, step)
            return
        for index, chunk in enumerate(chunks):
            if chunk.samples:
                sampled.append((chunk.generation, logits[index]))
            chunk.generation.computed += chunk.count

    def _sample(self, sampled: list[tuple[Generation, Tensor]], step: _Step) -> None:
        generations = [generation for generation, _ in sampled]
        logits = torch.stack([row for _, row in sampled])
        draws = [generation.rng.random() for generation in generations]
        chosen = sample(logits, [generation.params for generation in generations], draws)
        now = self._clock()
        for generation, token in zip(generations, chosen, strict=True):
            if token is None:
                self._fail(generation, ErrorKind.NOT_A_NUMBER, step)
            else:
                self._append(generation, token, now, step)

    def _append(self, generation: Generation, token: int, now: float, step: _Step) -> None:
        generation.tokens.append(token)
        step.generated += 1
        if generation.completion_tokens == 1:
            generation.first_token_at = now
            if not generation.is_warmup:
                step.first_token_s.append(now - generation.arrived_at)
        elif not generation.is_warmup:
            step.gaps_s.append(now - generation.last_token_at)
        generation.last_token_at = now
        text, stopped = generation.text.push(self._tokenizer.decode((token,)))
        finish = None
        if stopped:
            finish = FinishReason.STOP
        elif generation.completion_tokens >= generation.params.max_tokens:
            finish = FinishReason.LENGTH
            text += generation.text.flush()
        step.updates.append(Update(generation.number, text, generation.completion_tokens, finish))
        if finish is not None:
            self._close(generation, finish, now, step)

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
        )


def _is_out_of_memory(error: Exception) -> bool:
    """CUDA says it with a type, the CPU allocator only with words."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return "allocate memory" in str(error)
