"""One admitted request while it is being answered: the news of its generations, and how each ended."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field

from engine.serving.front.calls import Call, Sample
from engine.serving.front.errors import ApiError, ClientGone, failed
from engine.serving.front.quotas import QueueClass
from engine.serving.request import FinishReason, TokenLogprobs, Update


@dataclass(slots=True)
class Piece:
    """What came of one generation since the last look."""

    index: int
    text: str = ""
    finish: FinishReason | None = None
    logprobs: list[TokenLogprobs] = field(default_factory=list)


@dataclass(slots=True)
class _Progress:
    """How far one generation is."""

    sample: Sample
    completion_tokens: int = 0
    finish: FinishReason | None = None


class Ticket:
    """One admitted request. Its generations have the engine's numbers from `number` on."""

    def __init__(self, number: int, call: Call, tenant: str, queue_class: QueueClass, arrived_at: float) -> None:
        self.number = number
        self.call = call
        self.tenant = tenant
        self.queue_class = queue_class
        self.arrived_at = arrived_at
        self.scheduled_at = 0.0
        """When the engine began with the first generation that ended; 0: none has ended well yet."""
        self.cached_tokens = 0
        """Prompt tokens that the prefix cache had, of all generations together."""
        self.first_token_at = 0.0
        self._progress = [_Progress(sample) for sample in call.samples]
        self._open = len(self._progress)
        self._news: deque[Update | ApiError | ClientGone] = deque()
        self._wake = asyncio.Event()

    @property
    def numbers(self) -> range:
        """The engine's numbers of this request's generations."""
        return range(self.number, self.number + len(self._progress))

    @property
    def unfinished(self) -> list[int]:
        """Numbers of the generations that the engine may still work on."""
        return [self.number + at for at, progress in enumerate(self._progress) if progress.finish is None]

    @property
    def is_done(self) -> bool:
        """Every generation ended well."""
        return self._open == 0

    @property
    def completion_tokens(self) -> int:
        """Tokens generated so far, in all generations."""
        return sum(progress.completion_tokens for progress in self._progress)

    @property
    def finish(self) -> FinishReason | None:
        """How the first generation ended; None while it goes on."""
        return self._progress[0].finish

    @property
    def finish_reasons(self) -> list[str]:
        """How each generation that ended did."""
        return [progress.finish.value for progress in self._progress if progress.finish is not None]

    def put(self, news: Update | ApiError | ClientGone) -> None:
        """Hand over news, or the reason there will be none. Whoever does not stream is woken only at the end."""
        if not isinstance(news, Update):
            self._news.append(news)
            self._wake.set()
            return
        progress = self._progress[news.number - self.number]
        if progress.finish is not None:
            return
        if not self.first_token_at:
            self.first_token_at = time.monotonic()
        progress.completion_tokens = news.completion_tokens
        if news.finish is not None and news.error is None:
            progress.finish = news.finish
            self._open -= 1
        self._news.append(news)
        if self.call.stream or news.error is not None or self._open == 0:
            self._wake.set()

    async def pieces(self) -> list[Piece]:
        """What came since the last call, in order, steps of one generation merged; waits for some.

        Raises ApiError or ClientGone when the request ended badly.
        """
        await self._wake.wait()
        self._wake.clear()
        pieces: dict[int, Piece] = {}
        while self._news:
            news = self._news.popleft()
            if not isinstance(news, Update):
                if self.is_done:
                    continue
                raise news
            if news.error is not None:
                raise failed(news.error)
            index = news.number - self.number
            piece = pieces.setdefault(index, Piece(index))
            piece.text += news.text
            piece.finish = news.finish
            piece.logprobs.extend(news.logprobs)
        return list(pieces.values())
