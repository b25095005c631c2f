"""Waiting for a process by pidfd: one that is not our child as well, and without asyncio's child watcher."""

from __future__ import annotations

import asyncio
import os


async def ended(pid: int) -> None:
    """Wait until the process `pid` has ended. It may still be a zombie; one that is gone has ended."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(pidfd, over.set)
    try:
        await over.wait()
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
