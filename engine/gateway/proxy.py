"""Carrying an admitted request to a replica: attempts, retries, deadline, shedding. The way back is `passing.py`."""

from __future__ import annotations

import asyncio
import functools
from itertools import count

import aiohttp
from aiohttp import web
from yarl import URL

from engine.gateway.answers import error_answer
from engine.gateway.exchange import Exchange, Recorder
from engine.gateway.passing import cut, pass_on
from engine.gateway.pool import AttemptFailed, Pool, Replica
from engine.gateway.table import Choice, pick, pick_replica
from state.words import BadClass, Track

RETRY_AFTER_S = "1"
DEADLINE_HEADER = "X-Airboss-Deadline-Ms"
"""Tells the replica when nobody will wait any longer, so that it does not work for no one."""
CLIENT_CLOSED = 499
"""The code a request has in the ledger when its client left before an answer (nginx's word for it)."""


@functools.lru_cache(maxsize=512)
def _url(base: str, path: str) -> URL:
    return URL(base + path, encoded=True)


class Proxy:
    """Relays calls. `max_inflight` bounds this worker; `retries` the times that sent work may be asked for again."""

    def __init__(self, pool: Pool, recorder: Recorder, *, max_inflight: int, retries: int) -> None:
        self.pool = pool
        self.recorder = recorder
        self.max_inflight = max_inflight
        self.retries = retries
        self.inflight = 0
        self.is_draining = False
        """The worker is leaving: answers close their connection."""
        self.is_cutting = False
        """The drain's deadline has passed: what is cancelled from now on is our doing, not the client's."""
        self._turns = count()

    async def relay(self, request: web.BaseRequest, exchange: Exchange) -> web.StreamResponse:
        """Answer the request, and count it exactly once, whatever happens."""
        if self.inflight >= self.max_inflight:
            response = self._shed(exchange, "max_inflight", f"{self.max_inflight} requests are in flight here already")
            self.recorder.ended(exchange)
            return response
        self.inflight += 1
        try:
            async with asyncio.timeout(exchange.call.route.deadline_s):
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
            self.recorder.ended(exchange)

    async def _try_until_answered(self, request: web.BaseRequest, exchange: Exchange) -> web.StreamResponse:
        """Attempt, and attempt elsewhere, until a replica's answer is on its way to the client.

        A request that was never sent has cost no work and is tried on every replica there is; one that was sent is
        asked for again at most `retries` times.
        """
        failed: set[str] = set()
        spare, may_wait = self.retries, True
        failure: AttemptFailed | None = None
        while True:
            choice = self._pick(exchange, failed)
            if choice is None and may_wait:
                may_wait = False
                if await self._doubt_cleared(exchange, failed):
                    continue
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
                if error.was_sent and spare == 0:
                    return self._broken(exchange, error)
                spare -= error.was_sent

    def _pick(self, exchange: Exchange, failed: set[str]) -> Choice | None:
        pool = self.pool
        return pick(exchange.call.route, exchange.backend, pool.healthy, pool.inflight, next(self._turns), failed)

    async def _doubt_cleared(self, exchange: Exchange, failed: set[str]) -> bool:
        """With nowhere to go, wait for the ping that may clear a replica ejected a moment ago."""
        route = exchange.call.route
        waited = await self.pool.settle(spawn_id for backend in route.backends for spawn_id, _ in backend.replicas)
        failed.difference_update(self.pool.healthy)
        return waited

    async def _attempt(
        self, request: web.BaseRequest, exchange: Exchange, choice: Choice, failed: set[str], may_hand_over: bool
    ) -> web.StreamResponse:
        replica = self.pool.begin(choice.spawn_id)
        try:
            with self.pool.guard(replica):
                upstream = await self._send(replica, exchange)
            self.pool.answered(replica)
            try:
                if upstream.status == 503:
                    replica.ping_now.set()
                    if may_hand_over and self._has_sibling(choice, failed):
                        raise AttemptFailed(OSError(f"{choice.spawn_id} answered 503"), was_sent=True)
                return await pass_on(request, exchange, upstream, self.pool, replica, self.is_draining)
            finally:
                upstream.close()  # a whole answer gave its connection back already; anything else is cut off here
        finally:
            self.pool.end(replica)

    def _has_sibling(self, choice: Choice, failed: set[str]) -> bool:
        """A full or draining replica may hand over within its track, never to another: that would hide its release."""
        tried = failed | {choice.spawn_id}
        return pick_replica(choice.backend, self.pool.healthy, self.pool.inflight, 0, tried) is not None

    async def _send(self, replica: Replica, exchange: Exchange) -> aiohttp.ClientResponse:
        call = exchange.call
        headers = call.headers.copy()
        headers["X-Request-Id"] = str(exchange.request_id)
        headers[DEADLINE_HEADER] = str(exchange.remaining_ms())
        url = _url(replica.base_url, call.path)
        return await replica.session.post(url, data=call.body, headers=headers, allow_redirects=False)

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
        exchange.outcome = BadClass.CLIENT_CANCEL if exchange.is_writing else BadClass.DEADLINE
        what = f"the deadline of {exchange.call.route.deadline_s:g} s passed"
        if exchange.response is not None:
            await cut(request, exchange, "deadline", what)
            return exchange.response
        exchange.code = 504
        message = f"{what} before an answer; ask for fewer tokens, or raise the service's deadline"
        return self._own(error_answer(504, "timeout", "deadline", message, headers=exchange.own_headers()))

    def _own(self, response: web.Response) -> web.Response:
        if self.is_draining:
            response.force_close()
        return response
