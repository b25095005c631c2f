"""A place for one process: what shall be in it, what is, and when it is started again. Values."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adapters.local.spawn import Child


@dataclass(frozen=True, slots=True)
class Slot:
    """A place for one process. `payload` builds the child's settings from its spawn id; `pass_fds` go with it."""

    owner: str
    kind: str
    module: str
    payload: Callable[[str], Mapping[str, Any]]
    pass_fds: Sequence[int] = ()
    service: str = ""
    env: str = ""
    release_id: str = ""
    digest: str = ""
    index: int = 0
    role: str = ""
    crash_loop_after: int = 0
    """Stop restarting for good once this many deaths came in the window; 0 = restart for ever."""
    passed_env: Sequence[str] = ()
    """Names of the engine's environment that the child gets besides the few that all get: its secrets' references."""


@dataclass(slots=True)
class Place:
    """A slot with the process that is in it now."""

    slot: Slot
    child: Child
    is_ready: bool = False
    restarts: int = 0
    started_at: float = 0.0
    last_end: str = ""
    deaths: deque[float] = field(default_factory=lambda: deque(maxlen=32))
    is_wanted: bool = True
    is_set_aside: bool = False
    """Nobody may count on it while it is found out whether anybody still wants it."""
    silent_until: float | None = None
    """On the monotonic clock: when it is replaced unless it has said who it is; None of one that has, or is new."""
    task: asyncio.Task[None] | None = None


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds before a restart: doubles from `first_s` to `most_s`; deaths older than `window_s` are forgotten."""

    first_s: float = 0.5
    most_s: float = 30.0
    window_s: float = 120.0

    def delay_s(self, deaths: Sequence[float], now: float) -> float:
        """The wait after the newest of `deaths` (monotonic seconds); the first death is answered at once."""
        recent = [d for d in deaths if now - d < self.window_s]
        return 0.0 if len(recent) <= 1 else min(self.first_s * 2.0 ** (len(recent) - 2), self.most_s)
