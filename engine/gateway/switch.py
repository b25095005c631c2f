"""Changing the routing table: in memory for the next request, on the disk for the next worker."""

from __future__ import annotations

import asyncio
import fcntl
import os
from dataclasses import dataclass, replace
from pathlib import Path

from engine.gateway.counts import Counts
from engine.gateway.front import Front
from engine.gateway.pool import Pool
from engine.gateway.table import RoutingTable, parse_table, table_text
from state.words import Conflict, UsageError


class KeptTable:
    """`table.json`, shared by all workers: what a starting one serves before anybody has spoken to it."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "table.json"
        self._lock = directory / "table.lock"

    def load(self) -> RoutingTable | None:
        """The kept table; None when there is none. Raises UsageError when it cannot be served, OSError."""
        try:
            body = self.path.read_bytes()
        except FileNotFoundError:
            return None
        return parse_table(body)

    def keep(self, table: RoutingTable) -> None:
        """Write `table` aside and rename it, unless a newer one is kept. Blocks. Raises OSError."""
        lock = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                kept = self.load()
            except UsageError:
                kept = None  # unreadable: the one we were just given is better in any case
            if kept is not None and kept.revision >= table.revision:
                return
            aside = self.path.with_name(f".table.json.{os.getpid()}")
            with aside.open("w", encoding="utf-8") as file:
                file.write(table_text(table))
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, self.path)
        finally:
            os.close(lock)


@dataclass(frozen=True, slots=True)
class Switched:
    """What became of a table that was put. `kept_error` is "" once it is on the disk."""

    revision: int
    is_unchanged: bool
    kept_error: str


class Switchboard:
    """Puts tables into service, one at a time."""

    def __init__(self, front: Front, pool: Pool, counts: Counts, kept: KeptTable) -> None:
        self._front = front
        self._pool = pool
        self._counts = counts
        self._kept = kept
        self._one_at_a_time = asyncio.Lock()

    async def put(self, table: RoutingTable) -> Switched:
        """Serve `table` from the next request on, then keep it. Raises Conflict when it is not newer.

        A disk that cannot keep it does not stop it: a rollback must reach traffic on a full disk too.
        """
        async with self._one_at_a_time:
            current = self._front.table
            if current is not None and table.revision <= current.revision:
                if replace(table, issued_at=current.issued_at) == current:
                    return Switched(current.revision, True, await self._keep(table))
                raise Conflict(
                    f"revision {table.revision} is not newer than {current.revision}, which is served",
                    hint=f"read the served table and issue revision {current.revision + 1} or later",
                    code="old_revision" if table.revision < current.revision else "same_revision",
                )
            await self.serve(table)
            return Switched(table.revision, False, await self._keep(table))

    async def serve(self, table: RoutingTable) -> None:
        """Bring in the table's replicas, then switch: one assignment, between two requests."""
        self._pool.arrange(table.routes)
        await self._pool.bring_in(table.replicas())
        self._counts.serve(table)
        self._front.table = table
        self._pool.retire_all_but(table.replicas())

    async def _keep(self, table: RoutingTable) -> str:
        try:
            await asyncio.to_thread(self._kept.keep, table)
        except OSError as error:
            return str(error)
        return ""
