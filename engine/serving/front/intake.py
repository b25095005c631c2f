"""The door between the HTTP front and the engine: who gets in, who is still waited for, and who hears what.

Lives in the event loop's thread. A request holds a Ticket from admission to its end; deadline, disconnect and the
engine's death reach the ticket's queue as its last item, so whoever answers waits in one place only.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from engine.serving.front.calls import Call
from engine.serving.front.errors import ApiError, deadline_passed, failed, invalid, unavailable
from engine.serving.front.quotas import QueueClass, Quotas
from engine.serving.front.ticket import Ticket
from engine.serving.loop import EngineLoop, LoopState
from engine.serving.request import ErrorKind, Update
from engine.serving.settings import ServingSettings

if TYPE_CHECKING:
    from engine.serving.compute.core import Finished

_RATE_WINDOW_S = 10.0


class Intake:
    """Admits requests to the engine and routes its news to their tickets. The engine's listener."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._engine: EngineLoop | None = None
        self._tickets: dict[int, Ticket] = {}
        """By the engine's number of each generation."""
        self._settings: dict[int, ServingSettings] = {}
        self._finished: dict[int, Finished] = {}
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._places: Counter[QueueClass] = Counter()
        self._quotas = Quotas()
        self._ends: deque[float] = deque(maxlen=512)
        self._last_number = 0
        self._in_flight = 0
        self.on_room: Callable[[], None] = lambda: None
        """Called when a request has ended: one that waits outside may be admitted now."""
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
        return self._in_flight

    def admit(
        self,
        call: Call,
        settings: ServingSettings,
        deadline_s: float,
        *,
        tenant: str = "",
        queue_class: QueueClass = QueueClass.INTERACTIVE,
    ) -> Ticket:
        """Let a request in, or raise ApiError: 503 when closed or full, 429 when its tenant has too much here."""
        if self._engine is None or self.is_closed:
            raise unavailable(
                "this replica is shutting down; ask another", "draining", retry_after_s=1, rejection="draining"
            )
        self._check_room(len(call.samples), queue_class, settings)
        tenant = tenant or call.user
        self._quotas.admit(tenant, call.prompt_tokens, settings, self._time_to_room(settings))
        ticket = Ticket(self._last_number + 1, call, tenant, queue_class, time.monotonic())
        self._last_number += len(call.samples)
        self._in_flight += 1
        self.idle.clear()
        self._places[queue_class] += len(call.samples)
        self._settings[ticket.number] = settings
        self._timers[ticket.number] = self._loop.call_later(deadline_s, ticket.put, deadline_passed(deadline_s))
        for number, sample in zip(ticket.numbers, call.samples, strict=True):
            self._tickets[number] = ticket
            params = replace(sample.params, priority=queue_class.priority)
            self._engine.submit(number, sample.tokens, params, ticket.arrived_at)
        return ticket

    def has_room(self, queue_class: QueueClass, settings: ServingSettings) -> bool:
        """Whether one more generation of a class would be let in."""
        total = settings.max_batch + settings.max_queue
        return self._places.total() < total and self._places[queue_class] < queue_class.places(settings)

    def close(self, ticket: Ticket) -> None:
        """The request is over for the front; the engine drops what was not done. May be called again."""
        timer = self._timers.pop(ticket.number, None)
        if timer is None:
            return
        timer.cancel()
        for number in ticket.numbers:
            del self._tickets[number]
        self._places[ticket.queue_class] -= len(ticket.numbers)
        self._in_flight -= 1
        if not self._in_flight:
            self.idle.set()
        self._quotas.release(ticket.tenant, ticket.completion_tokens, self._settings.pop(ticket.number))
        self._ends.append(time.monotonic())
        if self._engine is not None:
            for number in ticket.unfinished:
                self._engine.cancel(number)
        self.on_room()

    def abort_all(self, reason: ApiError) -> None:
        """End every request with `reason`."""
        for ticket in set(self._tickets.values()):
            ticket.put(reason)

    def on_updates(self, updates: Sequence[Update]) -> None:
        """From the engine's thread: news of requests."""
        self._loop.call_soon_threadsafe(self._route, updates)

    def on_finished(self, number: int, finished: Finished) -> None:
        """From the engine's thread, before the update that says so: what an ended generation amounted to."""
        self._finished[number] = finished

    def on_state(self, state: LoopState) -> None:
        """From the engine's thread: it serves, stopped or died."""
        self._loop.call_soon_threadsafe(self._state_changed, state)

    def _route(self, updates: Sequence[Update]) -> None:
        for update in updates:
            ticket = self._tickets.get(update.number)
            finished = self._finished.pop(update.number, None)
            if ticket is None:
                continue
            if finished is not None:
                ticket.cached_tokens += finished.cached_tokens
                ticket.scheduled_at = ticket.scheduled_at or ticket.arrived_at + finished.queue_s
            ticket.put(update)

    def _state_changed(self, state: LoopState) -> None:
        self.changed.set()
        if state is LoopState.DEAD:
            self.abort_all(failed(ErrorKind.ENGINE_DEAD))

    def _check_room(self, wanted: int, queue_class: QueueClass, settings: ServingSettings) -> None:
        """Raises ApiError when the request does not fit beside those that are here."""
        places = queue_class.places(settings)
        if wanted > places:
            raise invalid(
                f"the request starts {wanted} generations, and this server takes {places} of class {queue_class} "
                "at once: send several requests",
                "n",
            )
        total = settings.max_batch + settings.max_queue
        if self._places.total() + wanted > total:
            waiting, whose = settings.max_queue, ""
        elif self._places[queue_class] + wanted > places:
            waiting, whose = places - settings.max_batch, f" of class {queue_class}"
        else:
            return
        raise unavailable(
            f"{waiting} requests{whose} are waiting here already; try again shortly",
            "queue_full",
            retry_after_s=self._time_to_room(settings),
            rejection="queue_full",
        )

    def _time_to_room(self, settings: ServingSettings) -> float:
        """Seconds until the queue would be through, at the rate of the last ten seconds; 1 to 60."""
        now = time.monotonic()
        recent = sum(1 for at in self._ends if now - at < _RATE_WINDOW_S)
        queued = max(1, self._in_flight - settings.max_batch)
        return min(60.0, max(1.0, queued * _RATE_WINDOW_S / max(1, recent)))
