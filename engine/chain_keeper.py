"""Follows the audit chain beside the engine's work: its newest rows before the engine starts, every row soon after, then round and round.

A million rows take a minute to follow. Nobody waits for that: it goes in pages, and other threads have the time in between.
"""

from __future__ import annotations

import asyncio
import logging
import math

from sqlmodel import Session

from state import audit
from state.chain import ChainState, Walk
from state.store import Store
from state.words import AirbossError

log = logging.getLogger("airboss.chain")

TAIL_ROWS = 5_000
"""The newest rows, followed before the engine starts and at every turn; a chain that is shorter is followed whole."""
PAGE_ROWS = 1_000
PAGE_PAUSE_S = 0.05
TURN_S = 60.0
TURN_ROWS = 20_000
"""How many older rows a turn follows once all of them have been: a million are gone through within the hour."""


class ChainKeeper:
    """What is known of the chain. `state` is the last word; `unchecked` rows have not been followed since the start."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._anchor = store.path.with_name("audit.head")
        self._tail = ChainState(0, "")
        self._round = Walk()
        self._trouble: ChainState | None = None
        """What the last whole round, or this one so far, found wrong."""
        self._newest = 0
        self._is_first = True

    @property
    def state(self) -> ChainState:
        """Whole as far as it was followed, or what is wrong."""
        if not self._tail.is_whole or self._trouble is None:
            return self._tail
        return self._trouble

    @property
    def unchecked(self) -> int:
        """Rows that nobody has followed since the engine started."""
        return max(0, self._newest - self._round.last_id) if self._is_first else 0

    def begin(self) -> None:
        """Follow the newest rows, before anything else is done."""
        self.store.read_now(self._look_at_tail)

    async def run(self) -> None:
        """Follow every row once, gently; from then on a part of them at every turn."""
        while True:
            try:
                await self.turn(None if self._is_first else TURN_ROWS)
            except AirbossError as error:
                log.error("the audit chain cannot be followed now: %s", error)
            await asyncio.sleep(TURN_S)

    async def turn(self, rows: int | None = None) -> None:
        """Follow the newest rows and `rows` older ones (None: to the end of this round)."""
        await self.store.read(self._look_at_tail)
        left = math.inf if rows is None else rows
        while left > 0:
            walk = self._round
            if await self._follow(walk):
                self._ended(walk)
                self._round = Walk()
                return
            left -= PAGE_ROWS
            await asyncio.sleep(PAGE_PAUSE_S)

    async def verify(self) -> ChainState:
        """Follow the whole chain now, for somebody who waits for it. Returns what was found, its rows counted."""
        walk = Walk()
        while not await self._follow(walk):
            pass
        self._ended(walk)
        await self.store.read(self._look_at_tail)
        return walk.found(self._anchor.name) if self.state.is_whole else self.state

    async def _follow(self, walk: Walk) -> bool:
        """One page more. Returns whether that was the last of it."""
        if not walk.rows:
            # Before the first row is read: an anchor written after the end was names a row that no page has.
            walk.anchored = audit.anchored_head(self._anchor)
        return await self.store.read(lambda s: self._take(s, walk))

    @staticmethod
    def _take(session: Session, walk: Walk) -> bool:
        rows = audit.page(session, walk.last_id, PAGE_ROWS)
        return not walk.take(rows) or len(rows) < PAGE_ROWS

    def _ended(self, walk: Walk) -> None:
        found = walk.found(self._anchor.name)
        self._trouble = None if found.is_whole else found
        self._is_first = False

    def _look_at_tail(self, session: Session) -> None:
        anchored = audit.anchored_head(self._anchor)
        rows = audit.newest_page(session, TAIL_ROWS)
        walk = Walk(anchored)
        if len(rows) == TAIL_ROWS:
            walk.prev, walk.last_id = rows[0]["prev"], rows[0]["id"] - 1
        walk.take(rows)
        if walk.anchored and len(rows) == TAIL_ROWS and audit.contains(session, anchored):
            walk.anchored = ""
        self._newest = rows[-1]["id"] if rows else 0
        self._tail = walk.found(self._anchor.name)
        if len(rows) < TAIL_ROWS:
            self._trouble, self._is_first = None, False
