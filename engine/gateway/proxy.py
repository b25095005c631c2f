"""Carrying an admitted request to a replica: attempts, retries, deadline, shedding. The way back is `passing.py`."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from itertools import count

from aiohttp import web

from engine.gateway.answers import error_answer
from engine.gateway.counts import RowKey
from engine.gateway.exchange import Exchange, Recorder
from engine.gateway.jobs import is_jobs
from engine.gateway.passing import cut, pass_on
from engine.gateway.pool import AttemptFailed, HandedOver, Pool, Replica
from engine.gateway.quality.sampler import CHECKED_BYTES, Sampler
from engine.gateway.routing.circuit import Fault
from engine.gateway.routing.compare import SAMPLE_BYTES, Sample
from engine.gateway.routing.mirror import Copy, Mirrors
from engine.gateway.routing.traffic import Traffic
from engine.gateway.table import Choice, pick, pick_replica
from engine.gateway.wire.answer import Answer
from state.words import BadClass, Track

RETRY_AFTER_S = "1"
DEADLINE_HEADER = b"X-Airboss-Deadline-Ms"
"""Tells the replica when nobody will wait any longer, so that it does not work for no one."""
CLIENT_CLOSED = 499
"""The code a request has in the ledger when its client left before an answer (nginx's word for it)."""


def _copy_of(exchange: Exchange, sample: Sample) -> Copy:
    call = exchange.call
    return Copy(
        route=call.route,
        request_id=exchange.id_text,
        at=exchange.at,
        path=call.path,
        lines=call.lines,
        body=call.body,
        release_id=exchange.backend.release_id,
        track=exchange.backend.track,
        status=exchange.code,
        latency_ms=(time.perf_counter() - exchange.started) * 1000,
        tokens=exchange.tokens_out,
        sample=sample,
    )


def _row_of(exchange: Exchange) -> RowKey:
    return RowKey.of(exchange.call.table, exchange.call.route, exchange.backend)


class Proxy:
    """Relays calls. `max_inflight` bounds this worker; `retries` the times that sent work may be asked for again."""

    def __init__(
        self, pool: Pool, recorder: Recorder, mirrors: Mirrors, sampler: Sampler, *, max_inflight: int, retries: int
    ) -> None:
        self.pool = pool
        self.recorder = recorder
        self.mirrors = mirrors
        self.sampler = sampler
        self.max_inflight = max_inflight
        self.retries = retries
        self.traffic = Traffic(pool, max_inflight, time.monotonic)
        self.inflight = 0
        self.is_draining = False
        """The worker is leaving: answers close their connection."""
        self.is_cutting = False
        """The drain's deadline has passed: what is cancelled from now on is our doing, not the client's."""
        self._turns = count()

    async def relay(self, request: web.BaseRequest, exchange: Exchange) -> web.StreamResponse:
        """Answer the request, and count it exactly once, whatever happens."""
        if exchange.call.shed:
            what = (
                f"{exchange.call.route.service} is too full for requests of class {exchange.call.asking.request_class}"
            )
            response = self._shed(exchange, exchange.call.shed, what)
            self.recorder.ended(exchange)
            return response
        if self.inflight >= self.max_inflight:
            response = self._shed(exchange, "max_inflight", f"{self.max_inflight} requests are in flight here already")
            self.recorder.ended(exchange)
            return response
        self.inflight += 1
        is_shown = is_checked = False
        if not exchange.call.is_probe and not is_jobs(exchange.call.path):
            is_shown, is_checked = self.mirrors.wants(exchange.call.route), self.sampler.wants(exchange.call.route)
            if is_shown or is_checked:
                exchange.sample = Sample(CHECKED_BYTES if is_checked else SAMPLE_BYTES)
        entered = self.traffic.enter(exchange.call.route)
        try:
            async with asyncio.timeout(exchange.remaining_ms() / 1000):  # checks and the cache may have used some up
                return await self._try_until_answered(request, exchange)
        except TimeoutError:
            return await self._past_deadline(request, exchange)
        except asyncio.CancelledError:
            exchange.code = exchange.code or CLIENT_CLOSED
            exchange.outcome = BadClass.CLIENT_CANCEL
            if self.is_cutting:
                exchange.outcome = BadClass.STREAM_BROKEN if exchange.response is not None else BadClass.SERVER_ERROR
            raise
        except Exception:
            exchange.outcome = BadClass.SERVER_ERROR
            raise
        finally:
            self.inflight -= 1
            self.traffic.leave(entered)
            self.traffic.spent(exchange.call.route, exchange.tokens_in + exchange.tokens_out)
            self.recorder.ended(exchange)
            if exchange.sample is not None and exchange.sample.length:
                if is_shown:
                    self.mirrors.offer(_copy_of(exchange, exchange.sample))
                if is_checked and exchange.outcome is BadClass.OK:
                    self.sampler.offer(_row_of(exchange), exchange.call.route, exchange.sample, exchange.call.body)

    async def _try_until_answered(self, request: web.BaseRequest, exchange: Exchange) -> web.StreamResponse:
        """Attempt, and attempt elsewhere, until a replica's answer is on its way to the client.

        A request that was never sent has cost no work and is tried on every replica there is; one that was sent is
        asked for again at most `retries` times, and only while the route's retry budget allows it.
        """
        failed: set[str] = set()
        spare, may_wait = self.retries, True
        tried = {exchange.call.route.service}
        failure: AttemptFailed | None = None
        while True:
            choice = self._pick(exchange, failed)
            if choice is None and may_wait:
                may_wait = False
                if await self._doubt_cleared(exchange, failed):
                    continue
            if choice is None and self._falls_back(exchange, tried, failure):
                failure = None
                failed.clear()
                continue
            # A slow answer is better than none: nobody gains by leaving out the last replica for being late with its pings.
            choice = choice or self._pick(exchange, failed, self.pool.silent())
            if choice is None:
                return self._nowhere(exchange, failure)
            if failure is not None:
                self.recorder.attempt_failed(exchange, exchange.backend)
            exchange.answered_by(choice.backend)
            exchange.attempts += 1
            try:
                return await self._attempt(request, exchange, choice, failed, may_hand_over=spare > 0)
            except AttemptFailed as error:
                failure = error
                failed.add(choice.spawn_id)
                if error.was_sent and not (isinstance(error, HandedOver) or (spare and self._may_retry(exchange))):
                    return self._broken(exchange, error)
                spare -= error.was_sent

    def _pick(self, exchange: Exchange, failed: set[str], among: set[str] | None = None) -> Choice | None:
        pool = self.pool
        able = pool.healthy if among is None else among
        return pick(exchange.call.route, exchange.backend, able, pool.inflight, next(self._turns), failed)

    async def _doubt_cleared(self, exchange: Exchange, failed: set[str]) -> bool:
        """With nowhere to go, wait for the ping that may clear a replica ejected a moment ago."""
        route = exchange.call.route
        waited = await self.pool.settle(spawn_id for backend in route.backends for spawn_id, _ in backend.replicas)
        failed.difference_update(self.pool.healthy)
        return waited

    def _falls_back(self, exchange: Exchange, tried: set[str], failure: AttemptFailed | None) -> bool:
        """With nowhere left on its route, the request becomes one of the fallback's, if there is one that can answer."""
        call = exchange.call
        asking = call.asking._replace(body=call.body)  # as it was let in: what was redacted or cut stays so
        place = self.traffic.fall_back(call.table, call.route, asking, tried)
        if place is None:
            return False
        tried.add(place.route.service)
        said = {name for name, _ in place.answer_headers}
        kept = tuple(header for header in call.answer_headers if header[0] not in said)
        if failure is not None:
            self.recorder.attempt_failed(exchange, exchange.backend)
        deadline_s = min(call.deadline_s, place.route.deadline_s)
        exchange.call = replace(
            call,
            route=place.route,
            chosen=place.chosen,
            body=place.body,
            deadline_s=deadline_s,
            answer_headers=(*kept, *place.answer_headers),
        )
        exchange.answered_by(place.chosen)
        return True

    def _may_retry(self, exchange: Exchange) -> bool:
        return self.traffic.retry_budget(exchange.call.route).take()

    async def _attempt(
        self, request: web.BaseRequest, exchange: Exchange, choice: Choice, failed: set[str], may_hand_over: bool
    ) -> web.StreamResponse:
        replica = self.pool.begin(choice.spawn_id)
        shared_before = replica.shared_s
        exchange.spawn_id = choice.spawn_id
        try:
            with self.pool.guard(replica):
                upstream = await self._send(replica, exchange)
            self.pool.answered(replica)
            try:
                if upstream.status == 503:
                    replica.ping_now.set()
                    if may_hand_over and self._has_sibling(choice, failed) and self._may_retry(exchange):
                        raise HandedOver(OSError(f"{choice.spawn_id} answered 503"), was_sent=True)
                response = await pass_on(request, exchange, upstream, self.pool, replica, self.is_draining)
            finally:
                upstream.close()  # a whole answer gave its connection back already; anything else is cut off here
            self._judge(exchange)
            return response
        except HandedOver:
            raise
        except AttemptFailed as error:
            if not error.is_ours:
                self.pool.judge(choice.spawn_id, Fault.BREAK)
            raise
        finally:
            self.pool.end(replica)
            exchange.busy_s += replica.shared_s - shared_before

    def _judge(self, exchange: Exchange) -> None:
        """Let the breaker know how the replica answered. A client that left says nothing of it, nor does a full replica."""
        match exchange.outcome:
            case BadClass.CLIENT_CANCEL:
                return
            case BadClass.STREAM_BROKEN:
                self.pool.judge(exchange.spawn_id, Fault.BREAK)
            case BadClass.SERVER_ERROR:
                if exchange.code != 503:
                    self.pool.judge(exchange.spawn_id, Fault.SERVER_ERROR)
            case _:
                self.pool.judge(exchange.spawn_id, None)

    def _has_sibling(self, choice: Choice, failed: set[str]) -> bool:
        """A full or draining replica may hand over within its track, never to another: that would hide its release."""
        tried = failed | {choice.spawn_id}
        return pick_replica(choice.backend, self.pool.healthy, self.pool.inflight, 0, tried) is not None

    async def _send(self, replica: Replica, exchange: Exchange) -> Answer:
        call = exchange.call
        own = b"X-Request-Id: %s\r\n%s: %d\r\n"
        lines = own % (exchange.id_text.encode(), DEADLINE_HEADER, exchange.remaining_ms())
        asked = replica.wire.post(call.path, call.lines + lines, call.body)
        limit_s = call.route.routing.retry.answer_timeout_s if call.route.routing is not None else 0.0
        if not limit_s:
            return await asked
        try:
            async with asyncio.timeout(limit_s):
                return await asked
        except TimeoutError as error:
            raise AttemptFailed(TimeoutError(f"no answer began within {limit_s:g} s"), was_sent=True) from error

    def _nowhere(self, exchange: Exchange, failure: AttemptFailed | None) -> web.Response:
        """No replica is left to try."""
        if failure is not None and failure.was_sent:
            return self._broken(exchange, failure)
        route = exchange.call.route
        exchange.answered_by(next(b for b in route.backends if b.track == Track.STABLE))
        return self._shed(exchange, "no_healthy_replica", f"no replica of {route.service} in {route.env} is healthy")

    def _shed(self, exchange: Exchange, reason: str, what: str) -> web.Response:
        self.recorder.rejected(reason)
        exchange.outcome, exchange.code = BadClass.SHED, 503
        message = f"{what}; try again in {RETRY_AFTER_S} s"
        headers = {**exchange.own_headers(), "Retry-After": RETRY_AFTER_S}
        return self._own(error_answer(503, "service_unavailable", reason, message, headers=headers))

    def _broken(self, exchange: Exchange, failure: AttemptFailed) -> web.Response:
        exchange.outcome, exchange.code = BadClass.SERVER_ERROR, 502
        message = f"the replica broke off before it answered ({failure}); nothing was delivered, ask again"
        return self._own(error_answer(502, "upstream_error", "replica_broke", message, headers=exchange.own_headers()))

    async def _past_deadline(self, request: web.BaseRequest, exchange: Exchange) -> web.StreamResponse:
        call = exchange.call
        is_ours = call.is_patient and not exchange.is_writing
        exchange.outcome = BadClass.DEADLINE if is_ours else BadClass.CLIENT_CANCEL
        what = f"the deadline of {call.deadline_s:g} s passed"
        if is_ours and exchange.spawn_id and exchange.response is None:
            self.pool.judge(exchange.spawn_id, Fault.BREAK)
        if exchange.response is not None:
            await cut(request, exchange, "deadline", what)
            return exchange.response
        exchange.code = 504
        message = f"{what} before an answer; ask for fewer tokens, or raise the service's deadline"
        if not call.is_patient:
            message = (
                f"{what} before an answer; it is the one this request asked for, allow more or ask for fewer tokens"
            )
        return self._own(error_answer(504, "timeout", "deadline", message, headers=exchange.own_headers()))

    def _own(self, response: web.Response) -> web.Response:
        if self.is_draining:
            response.force_close()
        return response
