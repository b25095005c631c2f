"""The door between the HTTP front and the engine: who gets in, who is still waited for, and who hears what.

Lives in the event loop's thread. A request holds a Ticket from admission to its end; deadline, disconnect and the
engine's death reach the ticket's queue as its last item, so whoever answers waits in one place only.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Sequence

from engine.serving.front.errors import ApiError, ClientGone, unavailable
from engine.serving.front.schemas import Call
from engine.serving.loop import EngineLoop, LoopState
from engine.serving.request import ErrorKind, FinishReason, Update
from engine.serving.settings import ServingSettings

_RATE_WINDOW_S = 10.0


class Ticket:
    """One admitted request."""

    def __init__(self, number: int, call: Call, arrived_at: float) -> None:
        self.number = number
        self.call = call
        self.arrived_at = arrived_at
        self.first_token_at = 0.0
        self.finish: FinishReason | None = None
        self.completion_tokens = 0
        self._news: deque[Update | ApiError | ClientGone] = deque()
        self._wake = asyncio.Event()

    def put(self, news: Update | ApiError | ClientGone) -> None:
        """Hand over news, or the reason there will be none. Whoever does not stream is woken only at the end."""
        self._news.append(news)
        if not self.first_token_at and isinstance(news, Update):
            self.first_token_at = time.monotonic()
        if self.call.stream or not isinstance(news, Update) or news.finish is not None:
            self._wake.set()

    async def next_text(self) -> str:
        """Text that came since the last call, steps merged if several were done; waits for some.

        After it `finish` is set if the generation is over. Raises ApiError or ClientGone when it ended badly.
        """
        await self._wake.wait()
        self._wake.clear()
        text = ""
        while self._news and self.finish is None:
            text += self._apply(self._news.popleft())
        return text

    def _apply(self, news: Update | ApiError | ClientGone) -> str:
        if not isinstance(news, Update):
            raise news
        if news.error is not None:
            raise _failed(news.error)
        self.completion_tokens = news.completion_tokens
        self.finish = news.finish
        return news.text


class Intake:
    """Admits requests to the engine and routes its news to their tickets. The engine's listener."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._engine: EngineLoop | None = None
        self._tickets: dict[int, Ticket] = {}
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._by_user: Counter[str] = Counter()
        self._ends: deque[float] = deque(maxlen=512)
        self._last_number = 0
        self.changed = asyncio.Event()
        """Set when the engine changed its state."""
        self.idle = asyncio.Event()
        """Set while no request is in flight."""
        self.idle.set()
        self.is_draining = False
        self.is_closed = False

    def attach(self, engine: EngineLoop) -> None:
        """The engine this is the door of."""
        self._engine = engine

    @property
    def in_flight(self) -> int:
        """Requests admitted and not ended."""
        return len(self._tickets)

    def admit(self, call: Call, settings: ServingSettings, deadline_s: float) -> Ticket:
        """Let a request in, or raise ApiError: 503 when closed or full, 429 when its user has too many here."""
        if self._engine is None or self.is_closed:
            raise unavailable(
                "this replica is shutting down; ask another", "draining", retry_after_s=1, rejection="draining"
            )
        if len(self._tickets) >= settings.max_batch + settings.max_queue:
            raise unavailable(
                f"{settings.max_queue} requests are waiting here already; try again shortly",
                "queue_full",
                retry_after_s=self._time_to_room(settings),
                rejection="queue_full",
            )
        limit = settings.max_inflight_per_user
        if limit and call.user and self._by_user[call.user] >= limit:
            raise ApiError(
                429,
                f"user {call.user!r} has {limit} requests here already; wait for one to end",
                kind="rate_limit_error",
                code="rate_limit_exceeded",
                param="user",
                retry_after_s=self._time_to_room(settings),
                rejection="user_limit",
            )
        self._last_number += 1
        ticket = Ticket(self._last_number, call, time.monotonic())
        self._tickets[ticket.number] = ticket
        self.idle.clear()
        self._by_user[call.user] += 1
        self._timers[ticket.number] = self._loop.call_later(deadline_s, ticket.put, _deadline(deadline_s))
        self._engine.submit(ticket.number, call.tokens, call.params, ticket.arrived_at)
        return ticket

    def close(self, ticket: Ticket) -> None:
        """The request is over for the front; the engine drops it if it was not done. May be called again."""
        if self._tickets.pop(ticket.number, None) is None:
            return
        if not self._tickets:
            self.idle.set()
        self._timers.pop(ticket.number).cancel()
        self._by_user[ticket.call.user] -= 1
        if self._by_user[ticket.call.user] == 0:
            del self._by_user[ticket.call.user]
        self._ends.append(time.monotonic())
        if ticket.finish is None and self._engine is not None:
            self._engine.cancel(ticket.number)

    def abort_all(self, reason: ApiError) -> None:
        """End every request with `reason`."""
        for ticket in self._tickets.values():
            ticket.put(reason)

    def on_updates(self, updates: Sequence[Update]) -> None:
        """From the engine's thread: news of requests."""
        self._loop.call_soon_threadsafe(self._route, updates)

    def on_state(self, state: LoopState) -> None:
        """From the engine's thread: it serves, stopped or died."""
        self._loop.call_soon_threadsafe(self._state_changed, state)

    def _route(self, updates: Sequence[Update]) -> None:
        for update in updates:
            ticket = self._tickets.get(update.number)
            if ticket is not None:
                ticket.put(update)

    def _state_changed(self, state: LoopState) -> None:
        self.changed.set()
        if state is LoopState.DEAD:
            self.abort_all(_failed(ErrorKind.ENGINE_DEAD))

    def _time_to_room(self, settings: ServingSettings) -> float:
        """Seconds until the queue would be through, at the rate of the last ten seconds; 1 to 60."""
        now = time.monotonic()
        recent = sum(1 for at in self._ends if now - at < _RATE_WINDOW_S)
        queued = max(1, len(self._tickets) - settings.max_batch)
        return min(60.0, max(1.0, queued * _RATE_WINDOW_S / max(1, recent)))


def _deadline(deadline_s: float) -> ApiError:
    return ApiError(
        504,
        f"the answer was not complete within {deadline_s:g} s; ask for fewer tokens, or try again later",
        kind="timeout_error",
        code="deadline_exceeded",
    )


def _failed(kind: ErrorKind) -> ApiError:
    match kind:
        case ErrorKind.OUT_OF_MEMORY:
            return unavailable("there was not enough memory for this request; try again", kind.value, retry_after_s=1)
        case ErrorKind.ENGINE_DEAD:
            return unavailable("the engine of this replica died; ask another", kind.value, retry_after_s=1)
        case ErrorKind.NOT_A_NUMBER:
            return ApiError(
                500,
                "the model computed something that is not a number; its release should be rolled back",
                kind="server_error",
                code=kind.value,
            )
