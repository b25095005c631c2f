"""Where the library `limits` keeps its moving windows here: in memory, on the monotonic clock, in bounded space.

The library's own memory storage reads the wall clock, so that a clock set back locks callers out; it holds one object a
token, and starts a thread to forget them. The strategy and the arithmetic of limits remain the library's.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from limits.storage import MovingWindowSupport, Storage

MAX_WINDOWS = 50_000
"""Callers remembered; the one that has not asked for longest is forgotten first."""
GRAINS = 60
"""A window counts in this many grains: hits within one grain leave the window together, with the last of them."""


@dataclass(slots=True)
class _Grain:
    """Hits close to each other: when the first and the last came, and how much they took."""

    first: float
    last: float
    amount: int


@dataclass(slots=True)
class _Window:
    """The grains of one key, oldest first, and what they took together."""

    grains: deque[_Grain] = field(default_factory=deque)
    total: int = 0


class MemoryWindows(Storage, MovingWindowSupport):
    """One window a limited key. For one thread."""

    STORAGE_SCHEME = None

    def __init__(self, clock: Callable[[], float] = time.monotonic, max_windows: int = MAX_WINDOWS) -> None:
        super().__init__()
        self._clock = clock
        self._max_windows = max_windows
        self._windows: OrderedDict[str, _Window] = OrderedDict()
        """The one charged last stands last. Asked several times a request: it must cost next to nothing."""

    @property
    def base_exceptions(self) -> tuple[type[Exception], ...]:
        """None is expected: nothing here can fail."""
        return ()

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Take `amount` of `limit` in the last `expiry` seconds; False, and nothing taken, when there is no room."""
        now = self._clock()
        window = self._live(key, now - expiry)
        if window.total + amount > limit:
            return False
        self._put(key, window, now, expiry, amount)
        return True

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """(when the oldest hit was, how much is taken)."""
        now = self._clock()
        window = self._live(key, now - expiry)
        return (window.grains[0].last if window.grains else now), window.total

    def charge(self, key: str, expiry: int, amount: int) -> None:
        """Take more than was asked for at first, even past the limit; give back when `amount` is negative."""
        now = self._clock()
        window = self._live(key, now - expiry)
        if amount > 0:
            self._put(key, window, now, expiry, amount)
        while amount < 0 and window.grains:
            grain = window.grains[-1]
            back = min(-amount, grain.amount)
            grain.amount -= back
            window.total -= back
            amount += back
            if not grain.amount:
                window.grains.pop()

    def wait_s(self, key: str, limit: int, expiry: int, amount: int) -> float:
        """Seconds until there will be room for `amount`; 0 when there is, `expiry` when there never is."""
        now = self._clock()
        window = self._live(key, now - expiry)
        over = window.total + amount - limit
        if over <= 0:
            return 0.0
        for grain in window.grains:
            over -= grain.amount
            if over <= 0:
                return max(0.0, grain.last + expiry - now)
        return float(expiry)

    def _live(self, key: str, gone: float) -> _Window:
        """The key's window less what was hit at `gone` or before; a new one, not kept yet, when there is none."""
        window = self._windows.get(key)
        if window is None:
            return _Window()
        grains = window.grains
        while grains and grains[0].last <= gone:
            window.total -= grains.popleft().amount
        return window

    def _put(self, key: str, window: _Window, now: float, expiry: int, amount: int) -> None:
        grains = window.grains
        if grains and now - grains[-1].first < expiry / GRAINS:
            grains[-1].last = now
            grains[-1].amount += amount
        else:
            grains.append(_Grain(now, now, amount))
        window.total += amount
        if len(self._windows) >= self._max_windows and key not in self._windows:
            self._windows.popitem(last=False)
        self._windows[key] = window
        self._windows.move_to_end(key)

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Take without asking; the amount taken in the window."""
        self.charge(key, expiry, amount)
        return self.get(key)

    def get(self, key: str) -> int:
        """What the key has taken, as of its last hit."""
        return self.taken(key)

    def taken(self, key: str) -> int:
        """`get` without what the library wraps around its own methods: asked for each limit of each request."""
        window = self._windows.get(key)
        return window.total if window is not None else 0

    def get_expiry(self, key: str) -> float:
        """When the key was last hit, on this storage's clock."""
        window = self._windows.get(key)
        return window.grains[-1].last if window is not None and window.grains else self._clock()

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
