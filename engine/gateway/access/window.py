"""Where the library `limits` keeps its moving windows here: in memory, on the monotonic clock, in bounded space.

The library's own memory storage reads the wall clock, so that a clock set back locks callers out; it holds one object a
token, and starts a thread to forget them. The strategy and the arithmetic of limits remain the library's.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from cachetools import LRUCache
from limits.storage import MovingWindowSupport, Storage

MAX_WINDOWS = 50_000
"""Callers remembered; the one that has not asked for longest is forgotten first."""
GRAINS = 60
"""A window counts in this many grains: hits within one grain leave the window together, with the last of them."""


class MemoryWindows(Storage, MovingWindowSupport):
    """One deque of [last hit, first hit, amount] a limited key, oldest first. For one thread."""

    STORAGE_SCHEME = None

    def __init__(self, clock: Callable[[], float] = time.monotonic, max_windows: int = MAX_WINDOWS) -> None:
        super().__init__()
        self._clock = clock
        self._windows: LRUCache[str, deque[list[float]]] = LRUCache(max_windows)

    @property
    def base_exceptions(self) -> tuple[type[Exception], ...]:
        """None is expected: nothing here can fail."""
        return ()

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Take `amount` of `limit` in the last `expiry` seconds; False, and nothing taken, when there is no room."""
        now, window = self._clock(), self._live(key, expiry)
        if sum(int(grain[2]) for grain in window) + amount > limit:
            return False
        self._put(key, window, now, expiry, amount)
        return True

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """(when the oldest hit was, how much is taken)."""
        window = self._live(key, expiry)
        return (window[0][0] if window else self._clock()), sum(int(grain[2]) for grain in window)

    def charge(self, key: str, expiry: int, amount: int) -> None:
        """Take more than was asked for at first, even past the limit; give back when `amount` is negative."""
        now, window = self._clock(), self._live(key, expiry)
        if amount > 0:
            self._put(key, window, now, expiry, amount)
        while amount < 0 and window:
            back = min(-amount, int(window[-1][2]))
            window[-1][2] -= back
            amount += back
            if not window[-1][2]:
                window.pop()

    def wait_s(self, key: str, limit: int, expiry: int, amount: int) -> float:
        """Seconds until there will be room for `amount`; 0 when there is, `expiry` when there never is."""
        now, window = self._clock(), self._live(key, expiry)
        over = sum(int(grain[2]) for grain in window) + amount - limit
        for last, _, taken in window:
            if over <= 0:
                break
            over -= int(taken)
            if over <= 0:
                return max(0.0, last + expiry - now)
        return 0.0 if over <= 0 else float(expiry)

    def _live(self, key: str, expiry: int) -> deque[list[float]]:
        window: deque[list[float]] | None = self._windows.get(key)
        if window is None:
            return deque()
        gone = self._clock() - expiry
        while window and window[0][0] <= gone:
            window.popleft()
        return window

    def _put(self, key: str, window: deque[list[float]], now: float, expiry: int, amount: int) -> None:
        if window and now - window[-1][1] < expiry / GRAINS:
            window[-1][0] = now
            window[-1][2] += amount
        else:
            window.append([now, now, amount])
        self._windows[key] = window

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Take without asking; the amount taken in the window."""
        self.charge(key, expiry, amount)
        return sum(int(grain[2]) for grain in self._windows.get(key, ()))

    def get(self, key: str) -> int:
        """What the key has taken, as of its last hit."""
        return sum(int(grain[2]) for grain in self._windows.get(key, ()))

    def get_expiry(self, key: str) -> float:
        """When the key was last hit, on this storage's clock."""
        window = self._windows.get(key)
        return float(window[-1][0]) if window else self._clock()

    def check(self) -> bool:
        """Memory is always there."""
        return True

    def reset(self) -> int:
        """Forget everybody; how many there were."""
        known = len(self._windows)
        self._windows.clear()
        return known

    def clear(self, key: str) -> None:
        """Forget one key."""
        self._windows.pop(key, None)
