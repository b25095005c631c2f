"""What a rollout would cost here: how long a start takes, what memory is there, how large the releases are."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from sqlmodel import Session, select

from adapters.local.machine import available_bytes, gpu_free_bytes, need_of
from engine.rollouts.back.reading import COLD_START_GUESS_S, measured_start_s
from engine.rollouts.deploy_plan import Cost, Memory
from engine.rollouts.world import World
from state.models import Artifact, Release


async def cost_of(world: World, service: str, env: str, stable: str | None, release_id: str) -> Cost:
    """What starting the release takes, as far as it was measured, and what memory there is for it."""
    start, size_from, size_to = await world.store.read(
        lambda s: (
            measured_start_s(s, service, env, release_id),
            _size(s, stable) if stable else 0,
            _size(s, release_id),
        )
    )
    pids = [r.pid for r in world.runtime.replicas(service, env) if r.release_id == stable and r.is_alive]
    host, gpu = await asyncio.to_thread(_memory, pids)
    return Cost(COLD_START_GUESS_S if start is None else start, start is not None, host, gpu, size_from, size_to)


def _size(session: Session, release_id: str) -> int:
    """Bytes of the release's files, as they were registered; else as they lie there; 0 when they cannot be seen."""
    known = sum(session.exec(select(Artifact.size).where(Artifact.release_id == release_id)))
    row = session.get(Release, release_id)
    if known or row is None:
        return known
    try:
        return sum(path.stat().st_size for path in Path(row.bundle_path).rglob("*") if path.is_file())
    except OSError:
        return 0


def _memory(pids: Sequence[int]) -> tuple[Memory, Memory | None]:
    need = need_of(pids)
    host = Memory(need.memory if need else None, max(0, available_bytes()))
    return host, Memory(need.gpu_memory, gpu_free_bytes()) if need is not None and need.gpu_memory else None
