"""Backups by schedule: when one is due, made in a thread beside the event loop, and how old the newest one is."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from state.backup_sets import Backup, backups, take
from state.config import CONFIG_NAME
from state.databases import copier
from state.paths import Paths
from state.store_config import StateConfig
from state.words import AirbossError

log = logging.getLogger("airboss.backups")

SCHEDULED = "scheduled"
FIRST_AFTER_S = 60.0
"""A store that has no backup gets its first one so long after the engine began: not while everything starts."""
OLD_AFTER = 2.0
"""A newest backup that is older than so many intervals is too old."""


@dataclass(frozen=True, slots=True)
class BackupFact:
    """The newest backup, and what is wrong with having none newer."""

    made_at: float | None
    trouble: str = ""


def is_due(newest_at: float | None, every_s: float, now: float, up_since: float) -> bool:
    """Whether a backup is to be made now. A clock that was set back does not make the newest one young for ever."""
    if not every_s:
        return False
    if newest_at is None:
        return now - up_since >= min(FIRST_AFTER_S, every_s)
    return not 0 <= now - newest_at < every_s


def wrong(newest_at: float | None, every_s: float, now: float, up_since: float, error: str, flaws: str) -> str:
    """Why the backups are not as they should be: too old, or with something missing in the newest; "" when they are."""
    if not every_s:
        return ""
    age_s = now - (up_since if newest_at is None else newest_at)
    if age_s > OLD_AFTER * every_s:
        old = "there is no backup" if newest_at is None else f"the newest backup is {age_s / 60:.0f} minutes old"
        return f"{old}, and one is due every {every_s / 60:.0f}" + (f": {error}" if error else "")
    return error or flaws


class BackupKeeper:
    """Makes the scheduled backups of one workspace and knows about the newest."""

    def __init__(self, paths: Paths, state: StateConfig) -> None:
        self.paths = paths
        self.settings = state.backup
        self._state = state
        self._up_since = time.time()
        self._error = ""
        self._looked_at = -1
        self._newest: Backup | None = None
        self._look()

    @property
    def directory(self) -> Path:
        """Where the backups go."""
        return self.settings.to or self.paths.backups

    async def turn(self) -> None:
        """Look, and make a backup if one is due. A failure is remembered, and tried again at the next turn."""
        await asyncio.to_thread(self._turn)

    def fact(self) -> BackupFact:
        """The newest backup and its trouble; one that was made by hand a moment ago counts."""
        self._look()
        at = self._newest.made_at if self._newest else None
        flaws = "; ".join(self._newest.trouble) if self._newest else ""
        flaws = f"the newest backup is not whole: {flaws}" if flaws else ""
        return BackupFact(at, wrong(at, self.settings.every, time.time(), self._up_since, self._error, flaws))

    def _look(self) -> None:
        """Read which backups there are, if the directory has changed since it was last read."""
        try:
            changed_at = self.directory.stat().st_mtime_ns
        except OSError:
            changed_at = 0
        if changed_at != self._looked_at:
            found = backups(self.directory)
            self._newest, self._looked_at = (found[-1] if found else None), changed_at

    def _turn(self) -> None:
        try:
            self._look()
            at = self._newest.made_at if self._newest else None
            if not is_due(at, self.settings.every, time.time(), self._up_since):
                return
            self._newest = take(
                self.paths.store,
                reason=SCHEDULED,
                directory=self.directory,
                config=self.paths.root / CONFIG_NAME,
                with_bundles=self.settings.bundles,
                keep=self.settings.keep,
                copier=copier(self._state, self.paths),
            )
            self._error = ""
            log.info("backed up to %s", self._newest.store)
        except (OSError, AirbossError, sqlite3.DatabaseError) as error:
            said = f"the backup to {self.directory} failed: {error}"
            if said != self._error:
                log.error(said)
            self._error = said
