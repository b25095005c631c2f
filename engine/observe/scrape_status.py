"""How scraping goes, as values: who answers, who does not and since when, and what that means for evidence."""

from __future__ import annotations

from dataclasses import dataclass

SILENT_AFTER_S = 3.0
"""A worker that has not answered for this long is in trouble; one lost poll is not."""
TROUBLE_AFTER_S = 30.0
"""Nobody answering for this long is the source's own trouble; before that the counts' age says all there is to say."""


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """How a worker answers. `silent_since` is None while it does; `last_t1` is where its last ingested count ended."""

    spawn_id: str
    answered_at: float | None
    silent_since: float | None
    error: str
    last_t1: float | None


@dataclass(frozen=True, slots=True)
class ScrapeStatus:
    """How scraping goes: the living workers (and since when there is none), what went missing, what was refused."""

    workers: tuple[WorkerStatus, ...] = ()
    ticked_at: float | None = None
    alone_since: float | None = None
    gaps: int = 0
    gap_s: float = 0.0
    refused: tuple[str, ...] = ()

    def silent(self, now: float) -> dict[str, float]:
        """spawn id → end of its last count, of each living worker that does not answer."""
        return {
            w.spawn_id: w.last_t1
            for w in self.workers
            if w.silent_since is not None and now - w.silent_since >= SILENT_AFTER_S and w.last_t1 is not None
        }

    def trouble(self, now: float, after_s: float = TROUBLE_AFTER_S) -> str:
        """Why nothing can be said now, "" when something can: some worker answered in the last `after_s` seconds."""
        if self.alone_since is not None and now - self.alone_since >= after_s:
            return f"unreachable: no gateway worker has been up for {now - self.alone_since:.0f} s"
        silent = [w for w in self.workers if w.silent_since is not None and now - w.silent_since >= after_s]
        if not self.workers or len(silent) < len(self.workers):
            return ""
        worst = min(silent, key=lambda w: w.silent_since or now)
        return (
            f"unreachable: gateway worker {worst.spawn_id} for {now - (worst.silent_since or now):.0f} s: {worst.error}"
        )
