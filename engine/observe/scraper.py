"""The embedded scraper: every gateway snapshot into the store, once, whatever dies meanwhile.

How far each worker was read is kept in the store and moves in the same transaction as the rows, so that a restarted
engine goes on where the last one stopped and ingests nothing twice. A worker keeps its last ten minutes in memory and more of
them in a file; the file is read for a worker that died, and for one that ran on without an engine for longer.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import httpx

from engine.observe.countfiles import Shape, counted_workers, files_of, read_counts, shape_of
from engine.observe.fold import Cursor, Folded, fold, merge_alike
from engine.observe.ingest import (
    EVIDENCE_KEY,
    KEEP_ROLLOUT_S,
    forget,
    prune,
    read_cursors,
    read_newest,
    read_over,
    sum_minutes,
    write_batch,
)
from engine.observe.rates import KEPT_S, Recent
from engine.observe.scrape_status import ScrapeStatus, WorkerStatus
from state.store import Store

ANSWER_TIMEOUT_S = 2.0
CATCH_UP_S = 15.0
DEAD_FILES_EVERY_S = 5.0
OVER_EVERY_S = 10.0
ROWS_A_WRITE = 1_000
"""A backlog goes in by transactions of about this size: a rollback must not wait behind ten minutes of counts."""
LARGE_BODY = 200_000
"""Bytes from which on an answer is parsed and folded in a thread, to keep the event loop free."""

Worker = tuple[str, str]
"""A living gateway worker: its spawn id, which is the boot id of its counts, and its admin socket's path."""
Fetch = Callable[[str, int], Awaitable[bytes]]


@dataclass(slots=True)
class _Reading:
    answered_at: float | None = None
    silent_since: float | None = None
    error: str = ""


@dataclass(slots=True)
class _Totals:
    ticked_at: float | None = None
    alone_since: float | None = None
    gaps: int = 0
    gap_s: float = 0.0
    refused: list[str] = field(default_factory=list)


class Scraper:
    """Asks, folds, writes. One `tick` a second; `recent` holds the newest rows for the screens."""

    def __init__(
        self,
        store: Store,
        workers: Callable[[], Sequence[Worker]],
        gateway_dir: Path,
        *,
        fetch: Fetch | None = None,
        clock: Callable[[], float] = time.time,
        keep_minutes_s: float = 100 * 86_400.0,
        catch_up_s: float = CATCH_UP_S,
    ) -> None:
        self._store = store
        self._workers = workers
        self._dir = gateway_dir
        self._keep_minutes_s = keep_minutes_s
        self._catch_up_s = catch_up_s
        self._fetch = fetch or CountsClient()
        self._clock = clock
        self._cursors: dict[str, Cursor] | None = None
        self._readings: dict[str, _Reading] = {}
        self._files_seen: dict[str, Shape] = {}
        self._files_at = -DEAD_FILES_EVERY_S
        self._over: frozenset[str] = frozenset()
        self._over_at = -OVER_EVERY_S
        self._totals = _Totals()
        self._answered = asyncio.Event()
        self.recent = Recent()

    async def tick(self) -> ScrapeStatus:
        """One round: every living worker, and now and then the files of the dead; one transaction for all of it."""
        cursors = await self._start()
        workers = list(self._workers())
        living = [spawn_id for spawn_id, _ in workers]
        if self._is_due(self._over_at, OVER_EVERY_S):
            self._over, self._over_at = await self._store.read(read_over), self._clock()
        batches = list(await asyncio.gather(*(self._ask(spawn_id, socket, cursors) for spawn_id, socket in workers)))
        shapes: dict[str, Shape] = {}
        has_lost_one = not self._readings.keys() <= set(living)
        if has_lost_one or self._is_due(self._files_at, DEAD_FILES_EVERY_S):
            self._files_at = self._clock()
            dead, shapes = await asyncio.to_thread(self._read_dead, frozenset(living), dict(cursors))
            batches += dead
        for turn in zip_longest(*batches):
            await self._ingest({folded.boot_id: folded for folded in turn if folded is not None})
        self._files_seen.update(shapes)
        self._readings = {spawn_id: self._readings[spawn_id] for spawn_id in living}
        if any(reading.answered_at is not None for reading in self._readings.values()):
            self._answered.set()
        self._totals.ticked_at = self._clock()
        self._totals.alone_since = None if living else self._totals.alone_since or self._clock()
        return self.status()

    async def caught_up(self) -> None:
        """Wait, but not for long, until some worker's counts are in: what a new engine finds in the store is older."""
        with suppress(TimeoutError):  # not `wait_for`: it may lose the cancellation that ends the engine
            async with asyncio.timeout(self._catch_up_s):
                await self._answered.wait()
        self._answered.set()

    def status(self) -> ScrapeStatus:
        """How it goes, without asking anyone."""
        cursors = self._cursors or {}
        return ScrapeStatus(
            workers=tuple(
                WorkerStatus(
                    spawn_id,
                    reading.answered_at,
                    reading.silent_since,
                    reading.error,
                    cursors[spawn_id].t1 if spawn_id in cursors else None,
                )
                for spawn_id, reading in self._readings.items()
            ),
            ticked_at=self._totals.ticked_at,
            alone_since=self._totals.alone_since,
            gaps=self._totals.gaps,
            gap_s=self._totals.gap_s,
            refused=tuple(self._totals.refused[-20:]),
        )

    async def prune(self) -> int:
        """Let go of old evidence, minutes, and files of dead workers; returns how many rows went. Bounded work a call."""
        now = self._clock()
        gone = await self._store.write(lambda session: prune(session, now, self._keep_minutes_s))
        stale = await asyncio.to_thread(self._drop_old_files, frozenset(s for s, _ in self._workers()), now)
        if stale:
            await self._store.write(lambda session: forget(session, stale))
            for spawn_id in stale:
                (self._cursors or {}).pop(spawn_id, None)
        return gone

    async def close(self) -> None:
        """Close the connections to the workers."""
        if isinstance(self._fetch, CountsClient):
            await self._fetch.close()

    def _is_due(self, at: float, every_s: float) -> bool:
        return not at <= self._clock() < at + every_s

    async def _start(self) -> dict[str, Cursor]:
        if self._cursors is not None:
            return self._cursors
        since = self._clock() - KEPT_S
        cursors, rows = await self._store.read(lambda session: (read_cursors(session), read_newest(session, since)))
        self.recent.add(rows)
        self._cursors = cursors
        return cursors

    async def _ask(self, spawn_id: str, socket: str, cursors: Mapping[str, Cursor]) -> list[Folded]:
        reading = self._readings.setdefault(spawn_id, _Reading())
        known = cursors.get(spawn_id)
        try:
            body = await self._fetch(socket, known.seq if known else 0)
            if len(body) > LARGE_BODY:
                found = await asyncio.to_thread(self._fold_body, spawn_id, body, known)
            else:
                found = self._fold_body(spawn_id, body, known)
        except (httpx.HTTPError, OSError, ValueError, KeyError, TypeError) as error:
            reading.error = f"{type(error).__name__}: {error}".rstrip(": ")
            reading.silent_since = reading.silent_since or self._clock()
            return []
        reading.answered_at, reading.silent_since, reading.error = self._clock(), None, ""
        return found

    def _fold_body(self, spawn_id: str, body: bytes, known: Cursor | None) -> list[Folded]:
        answer = json.loads(body)
        boot_id = str(answer["boot_id"])
        if boot_id != spawn_id:
            raise ValueError(f"the socket of {spawn_id} is answered by {boot_id}")
        snapshots = list(answer["snapshots"])
        expected = known.seq + 1 if known else 1
        if snapshots and snapshots[0].get("seq", expected) > expected:
            # It ran on longer than it remembers: its file has the rest.
            first = snapshots[0]["seq"]
            snapshots = [*(s for s in read_counts(self._dir, spawn_id) if s["seq"] < first), *snapshots]
        return self._in_batches(boot_id, snapshots, known)

    def _read_dead(
        self, living: frozenset[str], cursors: Mapping[str, Cursor]
    ) -> tuple[list[list[Folded]], dict[str, Shape]]:
        found, shapes = [], {}
        for spawn_id in sorted(counted_workers(self._dir) - living):
            shape = shape_of(self._dir, spawn_id)
            if self._files_seen.get(spawn_id) != shape:
                shapes[spawn_id] = shape
                found.append(self._in_batches(spawn_id, read_counts(self._dir, spawn_id), cursors.get(spawn_id)))
        return found, shapes

    def _in_batches(self, boot_id: str, snapshots: Sequence[Any], known: Cursor | None) -> list[Folded]:
        batches: list[Folded] = []
        rows_each = max((len(s.get("rows", ())) for s in snapshots if isinstance(s, dict)), default=1)
        size = max(1, ROWS_A_WRITE // max(1, rows_each))
        for first in range(0, len(snapshots), size):
            batches.append(fold(boot_id, snapshots[first : first + size], known, self._over))
            known = batches[-1].cursor
        return batches

    async def _ingest(self, found: Mapping[str, Folded]) -> None:
        cursors = self._cursors or {}
        fresh = {b: f for b, f in found.items() if f.cursor is not None and f.cursor != cursors.get(b)}
        for folded in found.values():
            self._totals.refused.extend(folded.refused)
            del self._totals.refused[:-20]
        if not fresh:
            return
        rows = merge_alike((row for folded in fresh.values() for row in folded.rows), EVIDENCE_KEY)
        minutes = sum_minutes(fresh.values())
        moved = {boot_id: folded.cursor for boot_id, folded in fresh.items() if folded.cursor is not None}
        await self._store.write(lambda session: write_batch(session, rows, minutes, moved))
        cursors.update(moved)
        self._cursors = cursors
        self.recent.add(rows)
        self.recent.heard(min(cursor.t1 for cursor in moved.values()))
        for folded in fresh.values():
            self._totals.gaps += len(folded.gaps)
            self._totals.gap_s += sum(gap.t1 - gap.t0 for gap in folded.gaps)

    def _drop_old_files(self, living: frozenset[str], now: float) -> tuple[str, ...]:
        stale = []
        for spawn_id in counted_workers(self._dir) - living:
            files = files_of(self._dir, spawn_id)
            if spawn_id in self._files_seen and all(now - path.stat().st_mtime > KEEP_ROLLOUT_S for path in files):
                for path in files:
                    path.unlink(missing_ok=True)
                self._files_seen.pop(spawn_id)
                stale.append(spawn_id)
        return tuple(stale)


class CountsClient:
    """`GET /admin/counts?after=SEQ` over workers' Unix sockets, one kept connection each."""

    def __init__(self) -> None:
        self._clients: dict[str, httpx.AsyncClient] = {}

    async def __call__(self, socket: str, after: int) -> bytes:
        client = self._clients.get(socket)
        if client is None:
            transport = httpx.AsyncHTTPTransport(uds=socket, verify=False)
            client = httpx.AsyncClient(transport=transport, timeout=ANSWER_TIMEOUT_S, trust_env=False)
            self._clients[socket] = client
        try:
            response = await client.get("http://gateway/admin/counts", params={"after": after})
        except httpx.TransportError:
            # The path may be another worker's by now: the next round connects anew.
            await self._clients.pop(socket).aclose()
            raise
        response.raise_for_status()
        return response.content

    async def close(self) -> None:
        """Close every connection."""
        for client in self._clients.values():
            await client.aclose()
        self._clients.clear()
