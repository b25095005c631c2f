"""Waiting for what comes true by itself, in a test: polled, with a deadline that is for a machine far busier than a quiet one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
PATIENCE_S = 90.0
POLL_S = 0.02


def until(claim: Callable[[], T], what: str = "it comes true", timeout_s: float = PATIENCE_S) -> T:
    """Poll `claim` until it is true and return what it said; fail with `what` at the deadline."""
    end = time.monotonic() + timeout_s
    while not (found := claim()):
        assert time.monotonic() < end, f"not within {timeout_s:.0f} s: {what}"
        time.sleep(POLL_S)
    return found


async def eventually(claim: Callable[[], T], what: str = "it comes true", timeout_s: float = PATIENCE_S) -> T:
    """`until`, for a test with an event loop that must go on meanwhile."""
    end = time.monotonic() + timeout_s
    while not (found := claim()):
        assert time.monotonic() < end, f"not within {timeout_s:.0f} s: {what}"
        await asyncio.sleep(POLL_S)
    return found
