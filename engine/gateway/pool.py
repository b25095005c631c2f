"""The replicas behind the routing table: their connections, what is in flight, and the pings that judge them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType

from adapters.ports import Route
from engine.gateway.health import Health, Ping, after_break, after_ping, after_silence
from engine.gateway.logs import log
from engine.gateway.routing.breakers import Breakers
from engine.gateway.routing.circuit import Fault
from engine.gateway.wire.errors import BrokeOff, ConnectFailed, NoRoom, NotHttp
from engine.gateway.wire.wire import Wire

PING_EVERY_S = 0.25
PING_TIMEOUT_S = 1.0
FIRST_PINGS_S = 0.4
"""How long a new table waits for the first word of replicas it brings in."""
DOUBT_S = 0.5
"""How long a request with nowhere to go waits for the ping that may clear a replica just ejected."""


class AttemptFailed(Exception):
    """A replica could not be reached, or broke off its answer. `was_sent`: it may have done the work."""

    def __init__(self, error: BaseException, was_sent: bool) -> None:
        super().__init__(f"{type(error).__name__}: {error}")
        self.was_sent = was_sent
        self.is_ours = isinstance(error, NoRoom)
        """This worker is to blame, and not the replica."""


class HandedOver(AttemptFailed):
    """A replica said 503 and another one of its track may take the request; the retry is paid for already."""


@dataclass(slots=True, eq=False)
class Replica:
    """One model server as this worker knows it."""

    spawn_id: str
    address: str
    wire: Wire
    health: Health
    answered_at: float = float("-inf")
    """When a request last got an answer, on the monotonic clock."""
    is_retired: bool = False
    is_silent: bool = False
    """It has answered pings, and takes them still, but not in time: hung, or busy beyond measure."""
    ping_now: asyncio.Event = field(default_factory=asyncio.Event)
    doubt: asyncio.Future[None] | None = None
    """Pending from an ejection by a broken request until the next ping has said whether it was right."""
    first_word: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    shared_s: float = 0.0
    """What each request has had of its time since it was first asked: its busy time, divided among those in flight."""
    shared_at: float = 0.0

    def share_out(self, inflight: int) -> None:
        """Divide the time since the last change among the `inflight` requests that it worked on."""
        now = time.perf_counter()
        if inflight > 0:
            self.shared_s += (now - self.shared_at) / inflight
        self.shared_at = now


class Guard:
    """Turns the ways a replica breaks off into AttemptFailed, and ejects it where its connection is to blame."""

    __slots__ = ("_pool", "_replica")

    def __init__(self, pool: Pool, replica: Replica) -> None:
        self._pool = pool
        self._replica = replica

    def __enter__(self) -> None:
        """Nothing: what counts is how it is left."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            return
        if isinstance(error, NoRoom):
            raise AttemptFailed(error, was_sent=False) from error
        if isinstance(error, ConnectFailed | BrokeOff):
            self._pool.broke(self._replica, f"{type(error).__name__}: {error}")
            raise AttemptFailed(error, was_sent=isinstance(error, BrokeOff)) from error
        if isinstance(error, NotHttp):  # no reason to believe it is gone
            raise AttemptFailed(error, was_sent=True) from error


class Pool:
    """Every replica of the current table, and retired ones until their last request is done."""

    def __init__(self, ping_every_s: float = PING_EVERY_S, clock: Callable[[], float] = time.monotonic) -> None:
        self.replicas: dict[str, Replica] = {}
        self.healthy: set[str] = set()
        """Who may be asked: they answer pings, and their circuit does not leave them out."""
        self.breakers = Breakers(clock)
        self._answering: set[str] = set()
        self.inflight: dict[str, int] = {}
        self._ping_every_s = ping_every_s

    async def bring_in(self, addresses: dict[str, str]) -> None:
        """Open what is new and wait, briefly, for the first word of each."""
        new = []
        for spawn_id, address in addresses.items():
            known = self.replicas.get(spawn_id)
            if known is not None and known.address == address:
                known.is_retired = False
                continue
            if known is not None:
                self._close(known)
            replica = Replica(spawn_id, address, Wire(address), Health.unproven(time.time()))
            self.replicas[spawn_id] = replica
            self.inflight.setdefault(spawn_id, 0)
            replica.task = asyncio.create_task(self._watch(replica), name=f"ping {spawn_id}")
            new.append(replica)
        if new:
            with suppress(TimeoutError):
                async with asyncio.timeout(FIRST_PINGS_S):
                    await asyncio.gather(*(replica.first_word.wait() for replica in new))
            for replica in new:
                self._become(replica, after_silence(replica.health, time.time()))

    def silent(self) -> set[str]:
        """Replicas that are only slow to say how they are: the last ones to ask, when every healthy one is gone."""
        return {replica.spawn_id for replica in self.replicas.values() if replica.is_silent and not replica.is_retired}

    def arrange(self, routes: Iterable[Route]) -> None:
        """Take the tracks of a new table: who is left out is settled among the siblings that there are now."""
        self.breakers.arrange(routes)
        for spawn_id in self.replicas:
            if self.breakers.is_disturbed(spawn_id):
                self._choose_healthy(spawn_id)

    def retire_all_but(self, spawn_ids: Iterable[str]) -> None:
        """Let go of replicas the table no longer names, each after its last request."""
        kept = set(spawn_ids)
        for replica in list(self.replicas.values()):
            if replica.spawn_id not in kept:
                replica.is_retired = True
                self._close_if_done(replica)

    def begin(self, spawn_id: str) -> Replica:
        """An attempt starts on the replica."""
        self.replicas[spawn_id].share_out(self.inflight[spawn_id])
        self.inflight[spawn_id] += 1
        if self.breakers.began(spawn_id):
            self._choose_healthy(spawn_id)
        return self.replicas[spawn_id]

    def end(self, replica: Replica) -> None:
        """The attempt is over, however it went."""
        if self.replicas.get(replica.spawn_id) is replica:
            replica.share_out(self.inflight[replica.spawn_id])
            self.inflight[replica.spawn_id] -= 1
            if self.breakers.ended(replica.spawn_id):
                self._choose_healthy(replica.spawn_id)
            self._close_if_done(replica)

    def answered(self, replica: Replica) -> None:
        """A request got an answer from the replica just now."""
        replica.answered_at = time.monotonic()

    def judge(self, spawn_id: str, fault: Fault | None) -> None:
        """What a request has shown of a replica; None is a good answer."""
        breakers = self.breakers
        if breakers.succeeded(spawn_id) if fault is None else breakers.failed(spawn_id, fault):
            self._choose_healthy(spawn_id)

    def broke(self, replica: Replica, error: str) -> None:
        """A request could not connect, or was cut off: eject, and ping at once: it may be a stale connection."""
        replica.is_silent = False
        self._become(replica, after_break(replica.health, error, time.time()))
        if replica.doubt is None and not replica.is_retired:
            replica.doubt = asyncio.get_running_loop().create_future()
        replica.ping_now.set()

    def guard(self, replica: Replica) -> Guard:
        """Around everything that is asked of the replica or read from it."""
        return Guard(self, replica)

    async def settle(self, spawn_ids: Iterable[str]) -> bool:
        """Wait for the ping of replicas in doubt, if any of these is. True when there was something to wait for."""
        doubts = [r.doubt for s in spawn_ids if (r := self.replicas.get(s)) is not None and r.doubt is not None]
        if not doubts:
            return False
        await asyncio.wait(doubts, timeout=DOUBT_S, return_when=asyncio.FIRST_COMPLETED)
        return True

    async def close(self) -> None:
        """Close every connection, and see the pings end."""
        replicas = list(self.replicas.values())
        for replica in replicas:
            self._close(replica)
            replica.wire.abort()
        await asyncio.gather(*(r.task for r in replicas if r.task is not None), return_exceptions=True)

    async def _watch(self, replica: Replica) -> None:
        while True:
            replica.ping_now.clear()
            asked = replica.doubt
            ping, error = await _ping(replica)
            if replica.doubt is not asked:
                continue  # a request broke while we asked: this word may be older than that, so ask again
            now = time.monotonic()
            answers = now - replica.answered_at < PING_TIMEOUT_S
            if ping is not None:
                replica.is_silent = ping is Ping.TIMEOUT and replica.health.is_proven
                self._become(replica, after_ping(replica.health, ping, error, time.time(), answers))
            replica.first_word.set()
            if self.breakers.is_disturbed(replica.spawn_id):
                self._choose_healthy(replica.spawn_id)
            if replica.doubt is not None:
                replica.doubt.set_result(None)
                replica.doubt = None
            with suppress(TimeoutError):
                async with asyncio.timeout(self._ping_every_s):
                    await replica.ping_now.wait()

    def _become(self, replica: Replica, health: Health) -> None:
        if health.is_healthy != replica.health.is_healthy and self.replicas.get(replica.spawn_id) is replica:
            (self._answering.add if health.is_healthy else self._answering.discard)(replica.spawn_id)
            self._choose_healthy(replica.spawn_id)
            if health.is_healthy:
                log("replica_healthy", replica=replica.spawn_id)
            else:
                log("replica_ejected", replica=replica.spawn_id, error=health.last_error)
        replica.health = health

    def _choose_healthy(self, spawn_id: str) -> None:
        """Settle anew who of a replica's track may be asked."""
        out = self.breakers.out(spawn_id, self._answering)
        for sibling in self.breakers.siblings(spawn_id):
            may_be_asked = sibling in self._answering and sibling not in out
            (self.healthy.add if may_be_asked else self.healthy.discard)(sibling)

    def _close_if_done(self, replica: Replica) -> None:
        if replica.is_retired and not self.inflight[replica.spawn_id]:
            self._close(replica)

    def _close(self, replica: Replica) -> None:
        self.healthy.discard(replica.spawn_id)
        self._answering.discard(replica.spawn_id)
        self.inflight.pop(replica.spawn_id, None)
        self.replicas.pop(replica.spawn_id, None)
        if replica.doubt is not None and not replica.doubt.done():
            replica.doubt.set_result(None)
        if replica.task is not None:
            replica.task.cancel()
        replica.wire.close()


async def _ping(replica: Replica) -> tuple[Ping | None, str]:
    """Ask the replica whether it is ready to generate; None when it could not even be asked, for want of descriptors."""
    try:
        async with asyncio.timeout(PING_TIMEOUT_S):
            # A server of another make (vLLM, SGLang, TGI) knows no /ready, and says at /health that it generates.
            for path in ("/ready", "/health"):
                answer = await replica.wire.get(path)
                try:
                    text = await answer.readany()
                    if answer.status == 200:
                        return Ping.READY, ""
                    said = f"{path} answered {answer.status}: {text[:300].decode(errors='replace')}"
                    if answer.status != 404:
                        break
                finally:
                    answer.close()
            return Ping.NOT_READY, said
    except TimeoutError:
        return Ping.TIMEOUT, f"/ready did not answer within {PING_TIMEOUT_S:g} s"
    except NoRoom as error:
        return None, str(error)
    except (OSError, NotHttp) as error:
        return Ping.REFUSED, f"{type(error).__name__}: {error}"
