"""Answers kept to be given again. Bounded in bytes and in number, each for its time, and never across releases."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from cachetools import TLRUCache

from adapters.access import CachePolicy
from adapters.ports import Backend, Route
from engine.gateway.access.prompt import body_of
from state.access_config import CacheConfig

HEADER = "X-Airboss-Cache"
RESULTS = ("hit", "miss", "bypass")
OVERHEAD_BYTES = 512
"""What an entry costs beside its bytes, roughly."""


@dataclass(frozen=True, slots=True)
class Kept:
    """One answer, as it was passed on. `ttl_s` is its route's at the time."""

    content_type: str
    body: bytes
    ttl_s: float


@dataclass(slots=True, eq=False)
class Keeping:
    """An answer that is to be kept if it comes to a good end. `parts` are what was passed on so far."""

    key: bytes
    policy: CachePolicy
    backend: Backend
    content_type: str = ""
    parts: list[bytes] | None = None
    size: int = 0
    leads: bool = False
    """Equal questions wait for this one's answer."""

    def add(self, data: bytes) -> None:
        """Note what was passed on; an answer that grows too large is forgotten."""
        if self.parts is None:
            return
        self.size += len(data)
        if self.size > self.policy.max_answer_bytes:
            self.parts = None
        else:
            self.parts.append(data)


class AnswerCache:
    """One worker's answers, the least recently used leaving first."""

    def __init__(self, config: CacheConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self.counts: dict[tuple[str, str, str], int] = {}
        """(service, env, result) → requests."""
        self._max_entries = config.max_entries
        self._under_way: dict[bytes, asyncio.Future[None]] = {}
        self._kept: TLRUCache[bytes, Kept] = TLRUCache(
            config.max_bytes, ttu=_expiry, timer=clock, getsizeof=lambda kept: len(kept.body) + OVERHEAD_BYTES
        )

    def count(self, route: Route, result: str) -> None:
        """Count a request of a route that has a cache."""
        key = (route.service, route.env, result)
        self.counts[key] = self.counts.get(key, 0) + 1

    def get(self, key: bytes) -> Kept | None:
        """The answer kept under `key`."""
        kept: Kept | None = self._kept.get(key)
        return kept

    async def answer_under_way(self, keeping: Keeping, timeout_s: float) -> Kept | None:
        """The answer that an equal question is just getting, once it is there; None: ask yourself.

        The first to come asks, and must say `landed` when that has ended. Who waited in vain asks too and leads nobody:
        were each to wait for the next, failures would queue.
        """
        under_way = self._under_way.get(keeping.key)
        if under_way is None:
            self._under_way[keeping.key] = asyncio.get_running_loop().create_future()
            keeping.leads = True
            return None
        await asyncio.wait((under_way,), timeout=timeout_s)
        return self.get(keeping.key)

    def landed(self, keeping: Keeping) -> None:
        """The question has its answer, or has failed: let go those who waited for it."""
        if keeping.leads and (under_way := self._under_way.pop(keeping.key, None)) is not None:
            under_way.set_result(None)

    def put(self, keeping: Keeping) -> None:
        """Keep an answer that came to a good end. One that is larger than all the room is not kept."""
        if keeping.parts is None:
            return
        kept = Kept(keeping.content_type, b"".join(keeping.parts), keeping.policy.ttl_s)
        if len(kept.body) + OVERHEAD_BYTES > self._kept.maxsize:
            return
        while len(self._kept) >= self._max_entries:
            self._kept.popitem()
        self._kept[keeping.key] = kept

    def __len__(self) -> int:
        return len(self._kept)


def _expiry(_key: bytes, kept: Kept, now: float) -> float:
    return now + kept.ttl_s


def key_of(
    route: Route,
    backend: Backend,
    policy: CachePolicy,
    path: str,
    body: bytes,
    scope: str,
    headers: Mapping[str, str],
    credentials: Iterable[str] = (),
) -> bytes | None:
    """What an answer is kept under; None when it must not be kept, or the caller wants a fresh one.

    The release, its track and the route's safety rules are part of it: an answer never outlives what it depended on.
    So are the `credentials` that pass through to the replica, which may well answer only some of them (RFC 9111 §3.5).
    """
    asked = {word.strip().lower() for word in headers.get("Cache-Control", "").split(",")}
    if asked & {"no-cache", "no-store"}:
        return None
    value = body_of(body)
    if not value or not (policy.is_always or is_deterministic(value)):
        return None
    safety = repr(route.access.safety) if route.access is not None else ""
    parts = (
        route.service, route.env, backend.release_id, backend.track, path, safety, "" if policy.is_shared else scope,
        *credentials,
        json.dumps(value, sort_keys=True, separators=(",", ":")),
    )  # fmt: skip
    return hashlib.sha256(json.dumps(parts).encode()).digest()


def wants_stream(body: bytes) -> bool:
    """The request asks for a stream: it wants its first words soon, so it waits for nobody else's last ones."""
    return b'"stream"' in body and bool(body_of(body).get("stream"))


def is_deterministic(body: Mapping[str, object]) -> bool:
    """The same question has the same answer: greedy, or with a seed."""
    temperature, seed = body.get("temperature"), body.get("seed")
    is_greedy = isinstance(temperature, int | float) and not isinstance(temperature, bool) and temperature == 0
    return is_greedy or (isinstance(seed, int) and not isinstance(seed, bool))
