"""The engine's thread: loads the model, warms it, then steps while there is work and beats while there is none.

Everything that touches torch happens in this thread. Others hand it messages and read `status()`. This module imports
no torch, so the front can listen, and say 503, while torch is still being imported here.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from engine.serving.metrics import ServingMetrics
from engine.serving.request import FinishReason, SamplingParams, Update
from engine.serving.settings import ServingSettings
from engine.serving.tokenizer import Tokenizer
from state.words import OperationFailed

if TYPE_CHECKING:
    from engine.serving.compute.core import EngineCore

_IDLE_BEAT_S = 0.1
_WARMUP = 0
"""The number of the warm-up generation; requests count from 1."""


class LoopState(StrEnum):
    """Where the engine stands."""

    STARTING = "starting"
    SERVING = "serving"
    STOPPED = "stopped"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What the front must know of the model to check and describe requests."""

    release_id: str
    digest: str
    tokenizer: Tokenizer
    context: int
    parameters: int
    device: str
    settings: ServingSettings
    cache_blocks: int = 0
    block_size: int = 0


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """A look at the engine; times are monotonic seconds."""

    state: LoopState
    detail: str
    beat_at: float
    progress_at: float
    """When a step last finished, or there was last nothing to do."""
    steps: int
    tokens_generated: int
    running: int
    waiting: int


class EngineListener(Protocol):
    """Told what happens, in the engine's thread."""

    def on_updates(self, updates: Sequence[Update]) -> None:
        """News of requests after a step."""
        ...

    def on_state(self, state: LoopState) -> None:
        """The engine began to serve, stopped or died."""
        ...


@dataclass(frozen=True, slots=True)
class _Submit:
    number: int
    tokens: Sequence[int]
    params: SamplingParams
    arrived_at: float


@dataclass(frozen=True, slots=True)
class _Cancel:
    number: int


class EngineLoop:
    """One thread around one EngineCore. Public methods may be called from any thread."""

    def __init__(
        self,
        prepare: Callable[[], tuple[EngineCore, ModelCard]],
        metrics: ServingMetrics,
        listener: EngineListener,
    ) -> None:
        self.card: ModelCard | None = None
        """Set once the model is loaded, before the state becomes SERVING."""
        self.failure: BaseException | None = None
        self._prepare = prepare
        self._metrics = metrics
        self._listener = listener
        self._inbox: queue.SimpleQueue[_Submit | _Cancel | None] = queue.SimpleQueue()
        self._stopping = False
        self._thread = threading.Thread(target=self._main, name="engine", daemon=True)
        self._state = LoopState.STARTING
        self._detail = "loading the model"
        self._beat_at = self._progress_at = time.monotonic()
        self._steps = self._tokens = self._running = self._waiting = 0

    def start(self) -> None:
        """Begin to load; returns at once."""
        self._thread.start()

    def submit(self, number: int, tokens: Sequence[int], params: SamplingParams, arrived_at: float) -> None:
        """Queue a request; its news comes through the listener. The caller bounds how many there are."""
        self._inbox.put(_Submit(number, tokens, params, arrived_at))

    def cancel(self, number: int) -> None:
        """Drop a request; no more news of it comes after the step under way."""
        self._inbox.put(_Cancel(number))

    def stop(self, timeout_s: float) -> bool:
        """End the thread after the step under way. False if it has not ended in time."""
        self._stopping = True
        self._inbox.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def status(self) -> EngineStatus:
        """How the engine is now."""
        return EngineStatus(
            state=self._state,
            detail=self._detail,
            beat_at=self._beat_at,
            progress_at=self._progress_at,
            steps=self._steps,
            tokens_generated=self._tokens,
            running=self._running,
            waiting=self._waiting,
        )

    def _main(self) -> None:
        try:
            core, card = self._prepare()
            self._warm_up(core, card)
            self.card = card
            self._metrics.describe_cache(
                blocks=card.cache_blocks, block_size=card.block_size, dtype=card.settings.dtype
            )
            self._enter(LoopState.SERVING, "")
            while not self._stopping:
                self._turn(core)
        except BaseException as error:
            # Whatever ends this thread is on record, and answered with 503; the process ends soon after.
            self.failure = error
            self._enter(LoopState.DEAD, f"{type(error).__name__}: {error}")
        else:
            self._enter(LoopState.STOPPED, "")

    def _warm_up(self, core: EngineCore, card: ModelCard) -> None:
        """Generate real tokens along the path that requests take. Raises OperationFailed if none comes out."""
        self._detail = "warming up"
        params = SamplingParams(max_tokens=min(2, card.context - 1), temperature=0.0)
        core.add(_WARMUP, [card.tokenizer.unknown_id], params, arrived_at=time.monotonic(), is_warmup=True)
        while core.has_work and not self._stopping:
            report = core.step()
            self._tokens += report.generated_tokens
            for update in report.updates:
                if update.finish is FinishReason.ERROR:
                    raise OperationFailed(
                        f"release {card.release_id} cannot generate a token: {update.error}",
                        hint="the model's weights are not usable; serve another release",
                    )

    def _turn(self, core: EngineCore) -> None:
        """Take messages, do one step, tell. Without work, wait for a message as long as one beat."""
        self._beat_at = time.monotonic()
        self._take_messages(core)
        has_moved = True
        if core.has_work:
            report = core.step()
            has_moved = report.computed_tokens > 0
            self._steps += 1
            self._tokens += report.generated_tokens
            self._metrics.record_step(report)
            if report.updates:
                self._listener.on_updates(report.updates)
        if has_moved:
            self._progress_at = time.monotonic()
        self._running, self._waiting = core.running, core.waiting
        self._metrics.record_load(running=core.running, waiting=core.waiting, cache_usage=core.cache_usage)

    def _take_messages(self, core: EngineCore) -> None:
        while True:
            try:
                message = self._inbox.get(block=not core.has_work, timeout=_IDLE_BEAT_S)
            except queue.Empty:
                return
            if isinstance(message, _Submit):
                core.add(message.number, message.tokens, message.params, arrived_at=message.arrived_at)
            elif isinstance(message, _Cancel):
                finished = core.cancel(message.number)
                if finished is not None:
                    self._metrics.record_finished(finished)
            else:
                return

    def _enter(self, state: LoopState, detail: str) -> None:
        self._detail = detail
        self._state = state
        self._listener.on_state(state)
